//! Random choices on a packet's way (`numgen random`), and how to see all their outcomes.

/// Who decides where the kernel would throw dice.
pub trait Random {
    /// A number below `modulus`, which is over 0.
    fn pick(&mut self, modulus: u32) -> u32;
}

/// Always the same number, modulo what is asked.
#[derive(Debug, Clone, Copy, Default)]
pub struct Fixed(pub u32);

impl Random for Fixed {
    fn pick(&mut self, modulus: u32) -> u32 {
        self.0 % modulus.max(1)
    }
}

/// Choices that follow a script, then always 0, and remember what was asked.
#[derive(Debug, Clone, Default)]
pub struct Choices {
    script: Vec<u32>,
    asked: Vec<(u32, u32)>,
}

impl Random for Choices {
    fn pick(&mut self, modulus: u32) -> u32 {
        let choice = self.script.get(self.asked.len()).copied().unwrap_or(0).min(modulus.saturating_sub(1));
        self.asked.push((choice, modulus));
        choice
    }
}

impl Choices {
    /// The script of the next outcome, as an odometer counts; `None` after the last.
    fn next(mut self) -> Option<Self> {
        while let Some((choice, modulus)) = self.asked.pop() {
            if choice + 1 < modulus {
                let mut script: Vec<u32> = self.asked.iter().map(|(choice, _)| *choice).collect();
                script.push(choice + 1);
                return Some(Self { script, asked: Vec::new() });
            }
        }
        None
    }
}

/// Results of `walk` for every outcome of the choices that it asks for, at most `limit` of them, in counting order.
pub fn explore<T>(limit: usize, mut walk: impl FnMut(&mut Choices) -> T) -> Vec<T> {
    let mut results = Vec::new();
    let mut next = Some(Choices::default());
    while let Some(mut choices) = next.take().filter(|_| results.len() < limit) {
        results.push(walk(&mut choices));
        next = choices.next();
    }
    results
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn explore_sees_every_outcome_once() {
        let pairs = explore(100, |dice| {
            let first = dice.pick(3);
            // The second choice is asked for after one outcome of the first only.
            (first, if first == 1 { dice.pick(2) } else { 9 })
        });
        assert_eq!(pairs, [(0, 9), (1, 0), (1, 1), (2, 9)]);
        assert_eq!(explore(2, |dice| dice.pick(1000)), [0, 1]);
        assert_eq!(explore(5, |_| ()).len(), 1);
    }
}
