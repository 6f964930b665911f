//! Prometheus's text format 0.0.4, read strictly, as its documentation has it: nothing here is shared with what writes it.

#![allow(dead_code)] // Each test binary uses its own part.

use std::collections::{BTreeMap, BTreeSet};

/// All families of one scrape.
pub struct Scrape(pub BTreeMap<String, Family>);

pub struct Family {
    pub kind: String,
    pub samples: BTreeMap<BTreeMap<String, String>, f64>,
}

/// Reads from the front of a text.
struct Line<'a>(&'a str);

impl<'a> Line<'a> {
    fn take(&mut self, good: impl Fn(usize, char) -> bool) -> &'a str {
        let end =
            self.0.char_indices().find(|(at, letter)| !good(*at, *letter)).map_or(self.0.len(), |it| it.0);
        let (token, rest) = self.0.split_at(end);
        self.0 = rest;
        token
    }

    fn name(&mut self, colons: bool) -> Result<&'a str, String> {
        let name = self.take(|at, letter| {
            letter.is_ascii_alphabetic()
                || letter == '_'
                || (colons && letter == ':')
                || (at > 0 && letter.is_ascii_digit())
        });
        if name.is_empty() { Err(format!("no name before {:?}", self.0)) } else { Ok(name) }
    }

    fn expect(&mut self, text: &str) -> Result<(), String> {
        self.0 = self.0.strip_prefix(text).ok_or_else(|| format!("no {text:?} before {:?}", self.0))?;
        Ok(())
    }

    fn quoted(&mut self) -> Result<String, String> {
        self.expect("\"")?;
        let mut value = String::new();
        let mut letters = self.0.chars();
        loop {
            match letters.next().ok_or("no end of a label's value")? {
                '"' => break,
                '\\' => value.push(match letters.next() {
                    Some('n') => '\n',
                    Some(same @ ('"' | '\\')) => same,
                    other => return Err(format!("\\{other:?} in a label's value")),
                }),
                other => value.push(other),
            }
        }
        self.0 = letters.as_str();
        Ok(value)
    }

    fn labels(&mut self) -> Result<BTreeMap<String, String>, String> {
        let mut labels = BTreeMap::new();
        if self.expect("{").is_err() {
            return Ok(labels);
        }
        loop {
            let name = self.name(false)?;
            self.expect("=")?;
            if labels.insert(name.to_owned(), self.quoted()?).is_some() {
                return Err(format!("label {name} twice"));
            }
            if self.expect("}").is_ok() {
                return Ok(labels);
            }
            self.expect(",")?;
        }
    }
}

impl Scrape {
    pub fn parse(text: &str) -> Result<Self, String> {
        if !text.ends_with('\n') {
            return Err("the last line has no end".into());
        }
        let mut all: BTreeMap<String, Family> = BTreeMap::new();
        let mut help: Option<String> = None;
        // Samples of a family stand together, behind its two lines.
        let mut current: Option<String> = None;
        for text in text.lines() {
            let fail = |words: String| format!("{words} in {text:?}");
            let mut line = Line(text);
            if line.expect("# HELP ").is_ok() {
                let name = line.name(true).map_err(fail)?;
                if line.0.trim().is_empty() || all.contains_key(name) {
                    return Err(fail("no words, or a second HELP".into()));
                }
                (help, current) = (Some(name.to_owned()), None);
            } else if line.expect("# TYPE ").is_ok() {
                let name = line.name(true).map_err(fail)?.to_owned();
                line.expect(" ").map_err(fail)?;
                if help.as_ref() != Some(&name) || !["counter", "gauge"].contains(&line.0) {
                    return Err(fail("a TYPE of another name or of no kind".into()));
                }
                current = Some(name.clone());
                all.insert(name, Family { kind: line.0.to_owned(), samples: BTreeMap::new() });
            } else {
                let name = line.name(true).map_err(fail)?;
                if current.as_deref() != Some(name) {
                    return Err(fail("a sample outside of its family".into()));
                }
                let labels = line.labels().map_err(fail)?;
                line.expect(" ").map_err(fail)?;
                let value: f64 = line.0.parse().map_err(|_| fail("no number".into()))?;
                let family = all.get_mut(name).ok_or("no family")?;
                if family.samples.insert(labels, value).is_some() {
                    return Err(fail("the same labels twice".into()));
                }
            }
        }
        Ok(Self(all))
    }

    /// The value of a sample with these labels among its own; there must be one.
    pub fn get(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.find(name, labels).unwrap_or_else(|| panic!("no {name} with {labels:?}"))
    }

    pub fn find(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let has = |have: &BTreeMap<String, String>| {
            labels.iter().all(|(name, value)| have.get(*name).is_some_and(|is| is == value))
        };
        let mut found = self.0.get(name)?.samples.iter().filter(|(have, _)| has(have));
        let first = found.next().map(|(_, value)| *value);
        assert!(found.next().is_none(), "more than one {name} with {labels:?}");
        first
    }

    /// Names of all labels.
    pub fn labels(&self) -> BTreeSet<String> {
        let samples = self.0.values().flat_map(|family| family.samples.keys());
        samples.flat_map(|labels| labels.keys().cloned()).collect()
    }
}
