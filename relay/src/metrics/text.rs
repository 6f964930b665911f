//! The text format of Prometheus, version 0.0.4: a family has its `HELP` and `TYPE`, and then its samples.

use std::fmt::Write as _;

/// What kind of number.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    /// It only grows, until the relay starts anew.
    Counter,
    /// It is as it is now.
    Gauge,
}

/// Collects families.
#[derive(Default)]
pub(super) struct Text(String);

impl Text {
    /// Begins a family; its samples follow.
    pub fn family<'a>(&'a mut self, kind: Kind, name: &'a str, help: &str) -> Family<'a> {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
        Family { out: &mut self.0, name }
    }

    /// A family of one number.
    pub fn one(&mut self, kind: Kind, name: &str, help: &str, value: impl Into<Number>) {
        self.family(kind, name, help).sample(&[], value);
    }

    pub fn finish(self) -> String {
        self.0
    }
}

/// Where samples of one name go.
pub(super) struct Family<'a> {
    out: &'a mut String,
    name: &'a str,
}

impl Family<'_> {
    /// With labels in a fixed order.
    pub fn sample(&mut self, labels: &[(&str, &str)], value: impl Into<Number>) {
        self.out.push_str(self.name);
        for (at, (label, text)) in labels.iter().enumerate() {
            let before = if at == 0 { '{' } else { ',' };
            let _ = write!(self.out, "{before}{label}=\"");
            for letter in text.chars() {
                match letter {
                    '\\' => self.out.push_str("\\\\"),
                    '"' => self.out.push_str("\\\""),
                    '\n' => self.out.push_str("\\n"),
                    other => self.out.push(other),
                }
            }
            self.out.push('"');
        }
        let end = if labels.is_empty() { "" } else { "}" };
        let _ = match value.into() {
            Number::Whole(value) => writeln!(self.out, "{end} {value}"),
            Number::Real(value) => writeln!(self.out, "{end} {value}"),
        };
    }
}

/// A sample's value.
pub(super) enum Number {
    Whole(u64),
    Real(f64),
}

impl From<u64> for Number {
    fn from(value: u64) -> Self {
        Self::Whole(value)
    }
}

impl From<usize> for Number {
    fn from(value: usize) -> Self {
        Self::Whole(value as u64)
    }
}

impl From<bool> for Number {
    fn from(value: bool) -> Self {
        Self::Whole(u64::from(value))
    }
}

impl From<f64> for Number {
    fn from(value: f64) -> Self {
        Self::Real(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_as_it_is_scraped() {
        let mut text = Text::default();
        let mut family = text.family(Kind::Counter, "a_total", "Things.");
        family.sample(&[("name", "q\"u\\o\nte"), ("n", "1")], 18_446_744_073_709_551_615u64);
        family.sample(&[], 0.25);
        text.one(Kind::Gauge, "b", "One.", true);
        let expected = "# HELP a_total Things.\n# TYPE a_total counter\n\
            a_total{name=\"q\\\"u\\\\o\\nte\",n=\"1\"} 18446744073709551615\na_total 0.25\n\
            # HELP b One.\n# TYPE b gauge\nb 1\n";
        assert_eq!(text.finish(), expected);
    }
}
