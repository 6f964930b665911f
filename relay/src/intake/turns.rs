//! Whose turn it is, where several programs publish one name: the first's. When it leaves, it is the next one's.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// Of each name those who publish it, the first in front.
type Names = HashMap<String, Vec<Entry>>;

struct Entry {
    number: u64,
    turn: watch::Sender<bool>,
}

/// All names.
#[derive(Clone, Default)]
pub(super) struct Turns(Arc<Mutex<(u64, Names)>>);

/// A program's place among those who publish one name, until this is dropped.
pub(super) struct Turn {
    turns: Turns,
    name: String,
    number: u64,
    /// Whether it is its turn.
    pub mine: watch::Receiver<bool>,
}

impl Turns {
    fn lock(&self) -> MutexGuard<'_, (u64, Names)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the turn at once, or waits for it behind those who were there before.
    pub fn queue(&self, name: &str) -> Turn {
        let mut all = self.lock();
        let (next, names) = &mut *all;
        let number = *next;
        *next += 1;
        let entries = names.entry(name.to_owned()).or_default();
        let (turn, mine) = watch::channel(entries.is_empty());
        entries.push(Entry { number, turn });
        Turn { turns: self.clone(), name: name.to_owned(), number, mine }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut all = self.turns.lock();
        let Some(entries) = all.1.get_mut(&self.name) else { return };
        entries.retain(|entry| entry.number != self.number);
        match entries.first() {
            Some(first) => drop(first.turn.send_replace(true)),
            None => drop(all.1.remove(&self.name)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_has_the_turn_and_the_next_one_after_it() {
        let turns = Turns::default();
        let (first, second, third) = (turns.queue("a"), turns.queue("a"), turns.queue("a"));
        let other = turns.queue("b");
        let mine = |turn: &Turn| *turn.mine.borrow();
        assert_eq!([&first, &second, &third, &other].map(mine), [true, false, false, true]);
        drop(second);
        assert_eq!([&first, &third].map(mine), [true, false]);
        drop(first);
        assert!(mine(&third));
        drop((third, other));
        assert!(turns.lock().1.is_empty());
    }
}
