//! Many pods at once: each of some threads takes the next pod until none is left.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use serde_json::Value;

use super::{AT_ONCE, MANY, Place, Times, milliseconds, sandbox};

/// How long all took, and each of them.
pub struct Many {
    pub add_took: Duration,
    pub del_took: Duration,
    pub times: Times,
}

/// ADDs all pods, then DELs them.
pub fn run(place: &Place) -> Result<Many> {
    let results: Vec<Mutex<Value>> = (0..MANY).map(|_| Mutex::default()).collect();
    let (add_took, add) = at_once(place, |number| {
        let (took, result) = place.plugins.add(&sandbox("many", number))?;
        *results[number].lock().unwrap_or_else(PoisonError::into_inner) = result;
        Ok(took)
    })?;
    let (del_took, del) = at_once(place, |number| {
        let result = results[number].lock().unwrap_or_else(PoisonError::into_inner).clone();
        place.plugins.del(&sandbox("many", number), &result)
    })?;
    Ok(Many { add_took, del_took, times: Times { add, del } })
}

fn at_once(place: &Place, work: impl Fn(usize) -> Result<Duration> + Sync) -> Result<(Duration, Vec<f64>)> {
    let next = AtomicUsize::new(0);
    let times = Mutex::new(Vec::with_capacity(MANY));
    let work_off = || -> Result<()> {
        place.machine.enter(|| {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= MANY {
                    return Ok(());
                }
                let took = work(number)?;
                times.lock().unwrap_or_else(PoisonError::into_inner).push(milliseconds(took));
            }
        })?
    };
    let start = Instant::now();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(work_off)).collect();
        threads.into_iter().try_for_each(|thread| {
            thread.join().map_err(|_| anyhow!("a thread of the benchmark panicked"))?
        })
    })?;
    Ok((start.elapsed(), times.into_inner().unwrap_or_else(PoisonError::into_inner)))
}
