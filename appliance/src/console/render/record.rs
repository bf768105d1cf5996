//! Records: one thing, a line for each of its properties.

use std::fmt::Display;

/// Properties in the order in which they are added.
#[derive(Debug, Default)]
pub struct Record {
    lines: Vec<(String, String)>,
}

impl Record {
    /// Adds a property.
    #[must_use]
    pub fn line(mut self, name: &str, value: impl Display) -> Self {
        self.lines.push((name.to_owned(), value.to_string()));
        self
    }

    /// Adds a property where there is one.
    #[must_use]
    pub fn some(self, name: &str, value: Option<impl Display>) -> Self {
        match value {
            Some(value) => self.line(name, value),
            None => self,
        }
    }

    /// Adds a property for each value, named only once.
    #[must_use]
    pub fn each(mut self, name: &str, values: impl IntoIterator<Item = impl Display>) -> Self {
        for (n, value) in values.into_iter().enumerate() {
            self = self.line(if n == 0 { name } else { "" }, value);
        }
        self
    }
}

impl Display for Record {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let width = self.lines.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
        for (n, (name, value)) in self.lines.iter().enumerate() {
            write!(f, "{}{name:width$}  {value}", if n == 0 { "" } else { "\n" })?;
        }
        Ok(())
    }
}
