//! Colour, on a terminal only, and never against `NO_COLOR` (<https://no-color.org>).

use std::io::IsTerminal;

/// Paints words for one stream, or leaves them plain.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Paint {
    colour: bool,
}

/// For text that goes to standard error.
pub(crate) fn stderr() -> Paint {
    Paint {
        colour: std::io::stderr().is_terminal() && !no_color(),
    }
}

/// For text that goes to standard output.
pub(crate) fn stdout() -> Paint {
    Paint {
        colour: std::io::stdout().is_terminal() && !no_color(),
    }
}

fn no_color() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}

impl Paint {
    /// Without colours.
    #[cfg(test)]
    pub(crate) const PLAIN: Self = Self { colour: false };

    pub(crate) fn is_colour(self) -> bool {
        self.colour
    }

    pub(crate) fn red(self, text: &str) -> String {
        self.wrap("31", text)
    }

    pub(crate) fn green(self, text: &str) -> String {
        self.wrap("32", text)
    }

    pub(crate) fn bold(self, text: &str) -> String {
        self.wrap("1", text)
    }

    fn wrap(self, code: &str, text: &str) -> String {
        if self.colour {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}
