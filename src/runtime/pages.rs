//! Large pages for the translator's tables once they are large.
//!
//! A packet of one session among a million finds nothing of it in the processor's caches, and with pages of
//! 4 KiB not even where to look for it. Small tables stay in small pages: a large one is 2 MiB however
//! little of it is used.

use crate::io::sys::memory::{LARGE_PAGE, move_into_large_pages, prefer_large_pages};
use crate::nat::Span;
use std::ops::Range;

/// Sessions from which on large pages are asked for: two and a half megabytes of tables.
const LARGE: usize = 16_384;

/// What was asked for.
#[derive(Debug)]
pub struct Pages {
    /// Sessions at which the tables are looked at next.
    next: usize,
    asked: Vec<Span>,
    /// Addresses at which something may stand in small pages.
    rest: Vec<Range<usize>>,
}

impl Default for Pages {
    fn default() -> Self {
        Pages { next: LARGE, asked: Vec::new(), rest: Vec::new() }
    }
}

impl Pages {
    /// Asks for large pages for what of the tables at `spans` has none, if there are so many sessions
    /// that new tables are to be expected. What is in use already is moved, a large page each time.
    pub fn look<I: Iterator<Item = Span>>(&mut self, sessions: usize, spans: impl FnOnce() -> I) {
        if !self.rest.is_empty() {
            return self.move_one();
        }
        if sessions < self.next {
            return;
        }
        self.next = sessions + sessions / 16;
        let spans: Vec<Span> = spans().collect();
        for span in spans.iter().filter(|span| !self.asked.contains(span)) {
            if let Err(error) = prefer_large_pages(span.address, span.length) {
                tracing::debug!("no large pages: {error}");
                self.next = usize::MAX;
                self.rest.clear();
                return;
            }
            // What is a page only with its neighbours stays: it would cost more than it saves.
            let first = span.address.next_multiple_of(LARGE_PAGE);
            self.rest.push(first..span.address + span.length);
        }
        self.asked = spans;
    }

    fn move_one(&mut self) {
        let Some(rest) = self.rest.last_mut() else { return };
        if rest.end.saturating_sub(rest.start) < LARGE_PAGE {
            self.rest.pop();
            return;
        }
        // Where it cannot be done at once, the kernel may do it when it gets round to it.
        if let Err(error) = move_into_large_pages(rest.start) {
            tracing::trace!("not moved into a large page: {error}");
        }
        rest.start += LARGE_PAGE;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_looked_at_when_they_may_have_grown() {
        let table = vec![0u8; 4 << 20];
        let span = Span { address: table.as_ptr().addr(), length: table.len() };
        let mut pages = Pages::default();
        let mut looks = 0;
        for sessions in 0..100_000 {
            pages.look(sessions, || {
                looks += 1;
                [span].into_iter()
            });
        }
        let expected = if pages.next == usize::MAX { 1..=1 } else { 25..=35 };
        assert!(expected.contains(&looks), "{looks}");
        assert_eq!(pages.asked, [span]);
    }
}
