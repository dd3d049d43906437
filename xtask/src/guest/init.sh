#!/usr/lib/busybox/busybox sh
# The guest's first program: prepares what a booted machine has, runs one test program after the other, and turns the power
# off. It talks to the console in lines that begin with @weft (console.rs); all else there is what tests print.
# Modules aren't loaded here: like on any Debian machine, the kernel asks for them.

/usr/lib/busybox/busybox --install -s /usr/lib/busybox
export PATH=/usr/sbin:/usr/bin:/usr/lib/busybox HOME=/root RUST_BACKTRACE=0 INSTA_WORKSPACE_ROOT=/ WEFT_PROGRAMS_ARE_BUILT=1

# What lives in a container pivots its root, which the kernel refuses below its first file system: a bind mount hides it.
if [ "$1" != again ]; then
    mount --bind / /mnt
    cd /mnt
    mount --move . /
    exec chroot . /init again
fi

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs -o mode=755 tmpfs /run
mount -t cgroup2 cgroup2 /sys/fs/cgroup
chmod 1777 /tmp /var/tmp
hostname guest
ip link set lo up

exec </dev/null >/dev/ttyS0 2>&1
echo "@weft kernel $(uname -r)"
# Each line: name, folder to start in, cases of generated tests, program, its words.
while read -r name folder cases program words; do
    echo "@weft begin $name"
    cd "$folder" || exit
    # shellcheck disable=SC2086
    PROPTEST_CASES=$cases "$program" --test-threads=1 --show-output $words </dev/null
    echo "@weft end $name $?"
done </suites
echo "@weft done"
poweroff -f
