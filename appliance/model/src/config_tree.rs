//! Configuration texts as trees that remember where every value stood, and the reading of such a tree with all
//! errors collected: a person mends a file once, not once an error.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::units::Bytes;

/// One error in a configuration: where it stands, what is wrong and what would be right.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigError {
    /// The file as the person knows it, or `kernel command line`.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// The dotted key, empty for an error of the file as a whole.
    pub key: String,
    /// What is wrong and what would be right.
    pub problem: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} line {}: ", self.file, self.line)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.problem)
    }
}

/// Where a value stood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    file: String,
    line: usize,
}

/// A value of a configuration and its origin.
#[derive(Clone, Debug)]
pub struct Tree {
    origin: Origin,
    value: Value,
}

#[derive(Clone, Debug)]
enum Value {
    Table(BTreeMap<String, Tree>),
    Array(Vec<Tree>),
    Text(String),
    Integer(i64),
    Boolean(bool),
    Other(&'static str),
}

impl Tree {
    /// Reads a TOML text; `file` is how errors name it.
    ///
    /// # Errors
    /// The text is not TOML: one error with its line.
    pub fn parse(file: &str, text: &str) -> Result<Self, ConfigError> {
        match DeTable::parse(text) {
            Ok(table) => Ok(Self {
                origin: Origin { file: file.to_owned(), line: 1 },
                value: Value::Table(table_of(file, text, table.into_inner())),
            }),
            Err(error) => {
                let line = error.span().map_or(1, |span| line_of(text, span.start));
                let (key, problem) = if error.message() == "duplicate key" {
                    const TWICE: &str =
                        "stands here for the second time; give one of the two another name, or remove it";
                    (key_on(text, line), TWICE.to_owned())
                } else {
                    (String::new(), error.message().to_owned())
                };
                Err(ConfigError { file: file.to_owned(), line, key, problem })
            }
        }
    }

    /// The tree of `<prefix><dotted key>=<value>` words of a command line, later words over earlier ones. A value
    /// that is a TOML integer or boolean counts as one, everything else as text.
    ///
    /// # Errors
    /// Every word that names no key or contradicts an earlier one.
    pub fn from_words(file: &str, prefix: &str, cmdline: &str) -> Result<Self, Vec<ConfigError>> {
        let origin = Origin { file: file.to_owned(), line: 1 };
        let mut tree = Self { origin: origin.clone(), value: Value::Table(BTreeMap::new()) };
        let mut errors = Vec::new();
        for word in quoted_words(cmdline) {
            let Some((key, value)) = word.strip_prefix(prefix).and_then(|word| word.split_once('=')) else { continue };
            let value = match value {
                "true" => Value::Boolean(true),
                "false" => Value::Boolean(false),
                text => text.parse().map_or_else(|_| Value::Text(text.to_owned()), Value::Integer),
            };
            if let Err(problem) = tree.insert(key, Self { origin: origin.clone(), value }) {
                errors.push(ConfigError { file: file.to_owned(), line: 1, key: key.to_owned(), problem });
            }
        }
        if errors.is_empty() { Ok(tree) } else { Err(errors) }
    }

    fn insert(&mut self, key: &str, leaf: Self) -> Result<(), String> {
        let (first, rest) = key.split_once('.').map_or((key, None), |(first, rest)| (first, Some(rest)));
        let Value::Table(table) = &mut self.value else {
            return Err("an earlier word gives this key a plain value, so it cannot have keys below it".to_owned());
        };
        if first.is_empty() {
            return Err("a part of the dotted key is empty".to_owned());
        }
        match rest {
            None => {
                table.insert(first.to_owned(), leaf);
                Ok(())
            }
            Some(rest) => {
                let origin = leaf.origin.clone();
                let below = Self { origin, value: Value::Table(BTreeMap::new()) };
                table.entry(first.to_owned()).or_insert(below).insert(rest, leaf)
            }
        }
    }

    /// Lays `over` on this tree: tables are merged key by key, every other value is replaced.
    pub fn overlay(&mut self, over: Self) {
        match (&mut self.value, over) {
            (Value::Table(table), Self { value: Value::Table(upper), .. }) => {
                for (key, value) in upper {
                    match table.get_mut(&key) {
                        Some(lower) => lower.overlay(value),
                        None => {
                            table.insert(key, value);
                        }
                    }
                }
            }
            (_, over) => *self = over,
        }
    }
}

fn table_of(file: &str, text: &str, table: DeTable<'_>) -> BTreeMap<String, Tree> {
    let entry = |(key, value): (Spanned<std::borrow::Cow<'_, str>>, Spanned<DeValue<'_>>)| {
        let line = line_of(text, key.span().start);
        (key.into_inner().into_owned(), tree_of(file, text, line, value.into_inner()))
    };
    table.into_iter().map(entry).collect()
}

fn tree_of(file: &str, text: &str, line: usize, value: DeValue<'_>) -> Tree {
    let value = match value {
        DeValue::String(s) => Value::Text(s.into_owned()),
        DeValue::Integer(i) => i64::from_str_radix(&i.as_str().replace('_', ""), i.radix())
            .map_or(Value::Other("an integer that is too large"), Value::Integer),
        DeValue::Boolean(b) => Value::Boolean(b),
        DeValue::Float(_) => Value::Other("a floating-point number"),
        DeValue::Datetime(_) => Value::Other("a date"),
        DeValue::Table(t) => Value::Table(table_of(file, text, t)),
        DeValue::Array(a) => Value::Array(
            a.into_iter()
                .map(|v| {
                    let line = line_of(text, v.span().start);
                    tree_of(file, text, line, v.into_inner())
                })
                .collect(),
        ),
    };
    Tree { origin: Origin { file: file.to_owned(), line }, value }
}

/// The key that a line of a TOML text gives, or the table that it begins.
fn key_on(text: &str, line: usize) -> String {
    let line = text.lines().nth(line.saturating_sub(1)).unwrap_or_default().trim();
    let table = line.trim_start_matches('[').split(']').next().unwrap_or_default();
    let key = if line.starts_with('[') { table } else { line.split('=').next().unwrap_or_default() };
    key.trim().to_owned()
}

fn line_of(text: &str, offset: usize) -> usize {
    1 + text.as_bytes()[..offset.min(text.len())].iter().filter(|b| **b == b'\n').count()
}

/// Splits a kernel command line into words; double quotes keep spaces together and fall away, as in Linux.
fn quoted_words(cmdline: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for c in cmdline.chars() {
        match c {
            '"' => quoted = !quoted,
            c if c.is_whitespace() && !quoted => words.push(String::new()),
            c => words.last_mut().expect("there is always a word").push(c),
        }
    }
    words
}

/// Reads one table of a tree, key by key. Errors gather in the shared list; [`Section::finish`] adds one for every
/// key that nobody asked for.
pub struct Section<'a> {
    path: String,
    origin: Origin,
    entries: BTreeMap<&'a str, &'a Tree>,
    known: Vec<&'static str>,
    errors: &'a std::cell::RefCell<Vec<ConfigError>>,
}

impl<'a> Section<'a> {
    /// The whole tree as a section.
    pub fn root(tree: &'a Tree, errors: &'a std::cell::RefCell<Vec<ConfigError>>) -> Self {
        Self::of(String::new(), tree, errors)
    }

    fn of(path: String, tree: &'a Tree, errors: &'a std::cell::RefCell<Vec<ConfigError>>) -> Self {
        let section =
            |entries| Self { path: path.clone(), origin: tree.origin.clone(), entries, known: Vec::new(), errors };
        match &tree.value {
            Value::Table(table) => section(table.iter().map(|(key, value)| (key.as_str(), value)).collect()),
            other => {
                let section = section(BTreeMap::new());
                section.error_at(&tree.origin, "", format!("a table is wanted here, not {}", other.kind()));
                section
            }
        }
    }

    fn error_at(&self, origin: &Origin, key: &str, problem: String) {
        self.errors.borrow_mut().push(ConfigError {
            file: origin.file.clone(),
            line: origin.line,
            key: dotted(&self.path, key),
            problem,
        });
    }

    /// Adds an error about `key`, at its line or, where it is absent, at the section's.
    pub fn error(&self, key: &str, problem: impl Into<String>) {
        let origin = self.entries.get(key).map_or(&self.origin, |tree| &tree.origin);
        self.error_at(origin, key, problem.into());
    }

    fn take(&mut self, key: &'static str) -> Option<&'a Tree> {
        self.known.push(key);
        self.entries.get(key).copied()
    }

    /// A text.
    pub fn text(&mut self, key: &'static str) -> Option<String> {
        self.text_for(key, "a text in quotes")
    }

    fn text_for(&mut self, key: &'static str, wanted: &str) -> Option<String> {
        match &self.take(key)?.value {
            Value::Text(text) => Some(text.clone()),
            // A word of the kernel command line cannot tell the text "1" from the number.
            Value::Integer(number) => Some(number.to_string()),
            other => {
                self.error(key, format!("{wanted} is wanted, not {}", other.kind()));
                None
            }
        }
    }

    /// A text that must be there.
    pub fn required_text(&mut self, key: &'static str, example: &str) -> Option<String> {
        if !self.has(key) {
            self.take(key);
            self.error(key, format!("is missing; write for example {key} = \"{example}\""));
            return None;
        }
        self.text(key)
    }

    /// A text that parses into `T`; its error says what would be right.
    pub fn parsed<T: FromStr<Err: fmt::Display>>(&mut self, key: &'static str) -> Option<T> {
        let text = self.text(key)?;
        self.checked(key, &text)
    }

    /// A text that must be there and parse into `T`.
    pub fn required<T: FromStr<Err: fmt::Display>>(&mut self, key: &'static str, example: &str) -> Option<T> {
        let text = self.required_text(key, example)?;
        self.checked(key, &text)
    }

    fn checked<T: FromStr<Err: fmt::Display>>(&self, key: &str, text: &str) -> Option<T> {
        text.parse().map_err(|error| self.error(key, format!("\"{text}\" is not valid: {error}"))).ok()
    }

    /// An integer within a range.
    pub fn integer(&mut self, key: &'static str, range: RangeInclusive<u64>) -> Option<u64> {
        let bounds = format!("{} to {}", range.start(), range.end());
        match &self.take(key)?.value {
            Value::Integer(number) => match u64::try_from(*number) {
                Ok(value) if range.contains(&value) => Some(value),
                _ => {
                    self.error(key, format!("{number} is out of range: {bounds}"));
                    None
                }
            },
            other => {
                self.error(key, format!("an integer from {bounds} is wanted, not {}", other.kind()));
                None
            }
        }
    }

    /// A size with a unit, within a range.
    pub fn size(&mut self, key: &'static str, range: RangeInclusive<Bytes>) -> Option<Bytes> {
        let bounds = format!("{} to {}", range.start(), range.end());
        let text = self.text_for(key, &format!("a size in quotes from {bounds}"))?;
        let problem = match text.parse() {
            Ok(size) if range.contains(&size) => return Some(size),
            Ok(size) => format!("{size} is out of range: {bounds}"),
            Err(error) => format!("\"{text}\" is not valid: {error}; from {bounds}"),
        };
        self.error(key, problem);
        None
    }

    /// `true` or `false`.
    pub fn boolean(&mut self, key: &'static str) -> Option<bool> {
        match &self.take(key)?.value {
            Value::Boolean(value) => Some(*value),
            other => {
                self.error(key, format!("true or false is wanted, not {}", other.kind()));
                None
            }
        }
    }

    /// A list of integers within a range.
    pub fn integers(&mut self, key: &'static str, range: RangeInclusive<u64>) -> Option<Vec<u64>> {
        let problem = format!("a list of integers from {} to {} is wanted", range.start(), range.end());
        let Value::Array(items) = &self.take(key)?.value else {
            self.error(key, problem);
            return None;
        };
        let number = |item: &Tree| match item.value {
            Value::Integer(i) => u64::try_from(i).ok().filter(|v| range.contains(v)),
            _ => None,
        };
        let numbers: Option<Vec<u64>> = items.iter().map(number).collect();
        if numbers.is_none() {
            self.error(key, problem);
        }
        numbers
    }

    /// Whether the key is there.
    pub fn has(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }

    /// The table under `key`, where there is one.
    pub fn section(&mut self, key: &'static str) -> Option<Section<'a>> {
        let tree = self.take(key)?;
        Some(Section::of(dotted(&self.path, key), tree, self.errors))
    }

    /// The tables of an array of tables, `[[key]]`, at most `max`.
    pub fn sections(&mut self, key: &'static str, max: u64) -> Vec<Section<'a>> {
        let Some(tree) = self.take(key) else { return Vec::new() };
        let Value::Array(items) = &tree.value else {
            self.error(key, format!("write it as [[{key}]], a table for each"));
            return Vec::new();
        };
        if items.len() as u64 > max {
            self.error(key, format!("{} are too many: at most {max}", items.len()));
        }
        let path = |n: usize| format!("{}[{}]", dotted(&self.path, key), n + 1);
        items.iter().enumerate().map(|(n, item)| Section::of(path(n), item, self.errors)).collect()
    }

    /// The tables under `key` by their names, `[key.NAME]`, at most `max`; names that do not parse are errors.
    pub fn named<N: FromStr<Err: fmt::Display>>(&mut self, key: &'static str, max: u64) -> Vec<(N, Section<'a>)> {
        let Some(below) = self.section(key) else { return Vec::new() };
        if below.entries.len() as u64 > max {
            self.error(key, format!("{} are too many: at most {max}", below.entries.len()));
        }
        let mut sections = Vec::new();
        for (name, tree) in &below.entries {
            match name.parse::<N>() {
                Ok(parsed) => sections.push((parsed, Section::of(dotted(&below.path, name), tree, self.errors))),
                Err(error) => below.error_at(&tree.origin, name, error.to_string()),
            }
        }
        sections
    }

    /// Ends the reading: every key that nobody asked for is an error that names its nearest known neighbour.
    pub fn finish(self) {
        for (key, tree) in &self.entries {
            if self.known.contains(key) {
                continue;
            }
            let near = nearest(key, &self.known).map_or_else(
                || format!("known keys here: {}", self.known.join(", ")),
                |near| format!("did you mean \"{near}\"?"),
            );
            self.error_at(&tree.origin, key, format!("is not a known key; {near}"));
        }
    }
}

impl Value {
    fn kind(&self) -> &'static str {
        match self {
            Self::Table(_) => "a table",
            Self::Array(_) => "a list",
            Self::Text(_) => "a text",
            Self::Integer(_) => "an integer",
            Self::Boolean(_) => "true or false",
            Self::Other(kind) => kind,
        }
    }
}

fn dotted(path: &str, key: &str) -> String {
    match (path, key) {
        ("", key) => key.to_owned(),
        (path, "") => path.to_owned(),
        (path, key) => format!("{path}.{key}"),
    }
}

/// The candidate that differs from `word` by two edits at most, the nearest first.
pub fn nearest<'c>(word: &str, candidates: &[&'c str]) -> Option<&'c str> {
    let near = candidates.iter().map(|candidate| (edits(word, candidate), *candidate));
    near.filter(|(distance, _)| *distance <= 2).min().map(|(_, candidate)| candidate)
}

/// Levenshtein distance over characters.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    #[test]
    fn every_error_is_told_at_once_with_file_line_key_and_range() {
        let tree = Tree::parse("vm.toml", "[vm]\ncpus = 99\nmemry = \"1 GiB\"\nname = 5.5\n").expect("TOML");
        let errors = RefCell::default();
        let mut root = Section::root(&tree, &errors);
        let mut vm = root.section("vm").expect("there");
        vm.integer("cpus", 1..=64);
        vm.text("name");
        vm.size("memory", Bytes(0)..=Bytes(1));
        vm.finish();
        root.finish();
        let texts: Vec<String> = errors.into_inner().iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "vm.toml line 2: vm.cpus: 99 is out of range: 1 to 64",
                "vm.toml line 4: vm.name: a text in quotes is wanted, not a floating-point number",
                "vm.toml line 3: vm.memry: is not a known key; did you mean \"memory\"?",
            ]
        );
    }

    #[test]
    fn what_is_not_toml_is_told_with_its_line() {
        let error = Tree::parse("host.toml", "[a]\nb = \n").expect_err("not TOML");
        assert_eq!((error.file.as_str(), error.line), ("host.toml", 2));
    }

    #[test]
    fn words_of_the_command_line_lie_over_the_file() {
        let mut tree = Tree::parse("host.toml", "[a]\nb = 1\nc = 2\n").expect("TOML");
        let words = Tree::from_words("kernel command line", "godwit.", "quiet godwit.a.b=7 godwit.a.d=\"x y\"");
        tree.overlay(words.expect("valid words"));
        let errors = RefCell::default();
        let mut root = Section::root(&tree, &errors);
        let mut a = root.section("a").expect("there");
        assert_eq!(a.integer("b", 0..=9), Some(7));
        assert_eq!(a.integer("c", 0..=9), Some(2));
        assert_eq!(a.text("d"), Some("x y".to_owned()));
        a.finish();
        root.finish();
        assert_eq!(errors.into_inner(), []);
    }
}
