//! Prints the demo as a story: headings, what was typed, what came of it. Coloured on a terminal.

use std::io::{IsTerminal, Write};

/// A story being told on standard output.
#[derive(Debug)]
pub struct Story {
    colour: bool,
    chapter: u32,
    failures: u32,
}

impl Story {
    /// Starts a story; in colour if standard output is a terminal and nobody objects.
    pub fn new(no_colour: bool) -> Story {
        let objected = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|value| value == "dumb");
        let colour = !no_colour && !objected && !dumb && std::io::stdout().is_terminal();
        Story { colour, chapter: 0, failures: 0 }
    }

    /// How many steps went otherwise than they should.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// The story is coloured.
    pub fn coloured(&self) -> bool {
        self.colour
    }

    /// Opens the story.
    pub fn title(&mut self, text: &str) {
        let text = self.paint("1", text);
        self.line(&text);
    }

    /// Opens a chapter.
    pub fn heading(&mut self, text: &str) {
        self.chapter += 1;
        let text = self.paint("1;36", &format!("{}. {text}", self.chapter));
        self.line("");
        self.line(&text);
    }

    /// A line of plain words.
    pub fn text(&mut self, text: &str) {
        self.line(&format!("   {text}"));
    }

    /// What is typed on which host.
    pub fn command(&mut self, host: &str, command: &str) {
        let prompt = self.paint("33", &format!("{host}$"));
        self.line(&format!("   {prompt} {command}"));
    }

    /// Something that went as it should.
    pub fn good(&mut self, text: &str) {
        let mark = self.paint("32", "✓");
        self.line(&format!("     {mark} {text}"));
    }

    /// Something that did not.
    pub fn bad(&mut self, text: &str) {
        self.failures += 1;
        let mark = self.paint("1;31", "✗");
        self.line(&format!("     {mark} {text}"));
    }

    /// Good or bad.
    pub fn judge(&mut self, right: bool, text: &str) {
        if right { self.good(text) } else { self.bad(text) }
    }

    /// What a program printed, line by line.
    pub fn block(&mut self, output: &str) {
        for line in output.lines() {
            let bar = self.paint("2", "│");
            self.line(&format!("     {bar} {line}"));
        }
    }

    /// Ends the story.
    pub fn closing(&mut self) {
        self.line("");
        let text = if self.failures == 0 { "All of it worked." } else { "Not all of it worked." };
        let text = self.paint(if self.failures == 0 { "1;32" } else { "1;31" }, text);
        self.line(&text);
        self.text("The gateway was an ordinary process: a TAP device inside, a socket outside, and a");
        self.text("translator between them that decides on addresses and ports and edits each packet once.");
        self.text("");
        self.text("Read on:  README.md             what it is good for, privileges, recipes");
        self.text("          docs/packet-walk.md   a packet's way through the code, in ten minutes");
        self.text("          tapnat run --help     your own bridge;   tapnat demo --keep   a shell in here");
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn line(&mut self, text: &str) {
        // A reader that has gone away, as `head` does, is no reason to stop half-way.
        let mut out = std::io::stdout().lock();
        let _ = writeln!(out, "{text}");
        let _ = out.flush();
    }
}
