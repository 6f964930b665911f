//! Reads Rust source far enough to find the paths that it names: comments, strings and test-only items are
//! blanked out (lines stay where they are), `use` trees are flattened.

/// A path such as `std::time::Instant` and the line where it stands.
#[derive(Debug, PartialEq)]
pub struct Named {
    /// 1 for the first line.
    pub line: usize,
    /// Segments joined by `::`, without generics.
    pub path: String,
}

/// Source without comments, string contents and test-only items.
pub struct Code {
    text: String,
    /// Modules that are compiled for tests only and live in files of their own.
    pub test_modules: Vec<String>,
}

impl Code {
    /// Reads one file's text.
    pub fn new(source: &str) -> Self {
        let (text, test_modules) = without_tests(&without_comments_and_strings(source));
        Self { text, test_modules }
    }

    /// Every path and single name in the code, `use` trees flattened.
    pub fn names(&self) -> Vec<Named> {
        let tokens = tokens(&self.text);
        let mut names = Vec::new();
        let mut at = 0;
        while at < tokens.len() {
            if tokens[at].text == "use" {
                at = flatten(&tokens, at + 1, "", &mut names);
            } else if is_name(tokens[at].text) {
                at = path(&tokens, at, &mut names);
            } else {
                at += 1;
            }
        }
        names
    }
}

#[derive(Clone, Copy)]
struct Token<'a> {
    line: usize,
    text: &'a str,
}

fn is_name(text: &str) -> bool {
    text.starts_with(|first: char| first.is_alphabetic() || first == '_')
}

/// Names, `::`, and single characters.
fn tokens(text: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let mut rest = line;
        while let Some(first) = rest.chars().next() {
            let length = if is_name(rest) {
                rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len())
            } else if rest.starts_with("::") {
                2
            } else {
                first.len_utf8()
            };
            if !first.is_whitespace() {
                tokens.push(Token { line: number + 1, text: &rest[..length] });
            }
            rest = &rest[length..];
        }
    }
    tokens
}

/// Joins `a::b::c` that starts at `at`; returns where it ends.
fn path(tokens: &[Token<'_>], at: usize, names: &mut Vec<Named>) -> usize {
    let mut joined = tokens[at].text.to_owned();
    let mut next = at + 1;
    while let [colons, name, ..] = tokens[next..]
        && colons.text == "::"
        && is_name(name.text)
    {
        joined = format!("{joined}::{}", name.text);
        next += 2;
    }
    names.push(Named { line: tokens[at].line, path: joined });
    next
}

/// One level of a `use` tree after `prefix`; returns the index behind it.
fn flatten(tokens: &[Token<'_>], mut at: usize, prefix: &str, names: &mut Vec<Named>) -> usize {
    let mut current = prefix.to_owned();
    let mut line = tokens.get(at).map_or(0, |token| token.line);
    let mut pending = false;
    while let Some(token) = tokens.get(at) {
        match token.text {
            "{" => {
                at = flatten(tokens, at + 1, &current, names);
                pending = false;
                continue;
            }
            "," | "}" | ";" => {
                if pending {
                    names.push(Named { line, path: current.clone() });
                }
                if token.text != "," {
                    return at + 1;
                }
                current = prefix.to_owned();
                pending = false;
            }
            "as" => at += 1,
            "::" => {}
            name => {
                current = if current.is_empty() { name.to_owned() } else { format!("{current}::{name}") };
                line = token.line;
                pending = true;
            }
        }
        at += 1;
    }
    at
}

/// Replaces comments and the insides of strings and characters by spaces; newlines stay.
fn without_comments_and_strings(source: &str) -> String {
    let bytes: Vec<char> = source.chars().collect();
    let mut out = String::with_capacity(source.len());
    let mut at = 0;
    while at < bytes.len() {
        let end = match bytes[at] {
            '/' if bytes.get(at + 1) == Some(&'/') => line_end(&bytes, at),
            '/' if bytes.get(at + 1) == Some(&'*') => block_comment_end(&bytes, at),
            '"' => string_end(&bytes, at + 1),
            'r' if starts_raw_string(&bytes, at) => raw_string_end(&bytes, at),
            '\'' => char_end(&bytes, at),
            _ => at,
        };
        if end == at {
            out.push(bytes[at]);
            at += 1;
        } else {
            out.extend(bytes[at..end].iter().map(|&c| if c == '\n' { '\n' } else { ' ' }));
            at = end;
        }
    }
    out
}

fn line_end(text: &[char], at: usize) -> usize {
    (at..text.len()).find(|&i| text[i] == '\n').unwrap_or(text.len())
}

fn block_comment_end(text: &[char], mut at: usize) -> usize {
    let mut depth = 0;
    while at + 1 < text.len() {
        match (text[at], text[at + 1]) {
            ('/', '*') => (depth, at) = (depth + 1, at + 2),
            ('*', '/') => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    text.len()
}

fn string_end(text: &[char], mut at: usize) -> usize {
    while at < text.len() {
        match text[at] {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    text.len()
}

fn starts_raw_string(text: &[char], at: usize) -> bool {
    // In a longer name (`for`, `br` is fine) an `r` starts nothing; `r#name` is a name.
    let in_a_name = at > 0 && (text[at - 1].is_alphanumeric() || text[at - 1] == '_') && text[at - 1] != 'b';
    let quote = (at + 1..text.len()).find(|&i| text[i] != '#');
    !in_a_name && quote.is_some_and(|i| text[i] == '"')
}

fn raw_string_end(text: &[char], at: usize) -> usize {
    let hashes = text[at + 1..].iter().take_while(|&&c| c == '#').count();
    let mut i = at + 2 + hashes;
    while i < text.len() {
        if text[i] == '"' && text[i + 1..].iter().take(hashes).filter(|&&c| c == '#').count() == hashes {
            return i + 1 + hashes;
        }
        i += 1;
    }
    text.len()
}

/// A character literal, or `at` itself for a lifetime.
fn char_end(text: &[char], at: usize) -> usize {
    match (text.get(at + 1), text.get(at + 2)) {
        (Some('\\'), _) => (at + 3..text.len()).find(|&i| text[i] == '\'').map_or(text.len(), |i| i + 1),
        (Some(_), Some('\'')) => at + 3,
        _ => at,
    }
}

/// Blanks every item behind `#[cfg(test)]` or `#[cfg(all(test, ...))]`, and collects `mod name;` among them.
fn without_tests(text: &str) -> (String, Vec<String>) {
    let mut text: Vec<char> = text.chars().collect();
    let mut modules = Vec::new();
    let mut at = 0;
    while at < text.len() {
        let Some(inside) = attribute(&text, at) else {
            at += 1;
            continue;
        };
        let end = at + 3 + inside.len();
        let inside: String = inside.iter().filter(|c| !c.is_whitespace()).collect();
        if inside != "cfg(test)" && !inside.starts_with("cfg(all(test") {
            at += 1;
            continue;
        }
        let item_end = item_end(&text, end);
        let item: String = text[end..item_end].iter().collect();
        if let Some(name) = item.trim().strip_suffix(';').and_then(|item| item.rsplit_once("mod ")) {
            modules.push(name.1.trim().to_owned());
        }
        text[at..item_end].iter_mut().filter(|c| **c != '\n').for_each(|c| *c = ' ');
        at = item_end;
    }
    (text.into_iter().collect(), modules)
}

/// What is between `#[` and its `]`, when an attribute starts at `at`.
fn attribute(text: &[char], at: usize) -> Option<&[char]> {
    let inside = text.get(at..)?.strip_prefix(&['#', '['])?;
    let mut depth = 1;
    for (i, c) in inside.iter().enumerate() {
        match c {
            '[' => depth += 1,
            ']' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(&inside[..i]);
        }
    }
    None
}

/// The end of the item that starts at `at`: its `;`, or the brace that closes it.
fn item_end(text: &[char], at: usize) -> usize {
    let mut depth = 0usize;
    for (i, c) in text.iter().enumerate().skip(at) {
        match c {
            '{' | '(' | '[' => depth += 1,
            '}' | ')' | ']' => {
                depth = depth.saturating_sub(1);
                if depth == 0 && *c == '}' {
                    return i + 1;
                }
            }
            ';' if depth == 0 => return i + 1,
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(source: &str) -> Vec<(usize, String)> {
        Code::new(source).names().into_iter().map(|named| (named.line, named.path)).collect()
    }

    fn has(source: &str, path: &str) -> bool {
        paths(source).iter().any(|(_, found)| found == path)
    }

    #[test]
    fn a_use_tree_is_flattened_with_lines() {
        let source = "use std::{\n    collections::{BTreeMap, VecDeque},\n    time::Instant as Now,\n};";
        let expected =
            [(2, "std::collections::BTreeMap"), (2, "std::collections::VecDeque"), (3, "std::time::Instant")];
        assert_eq!(paths(source), expected.map(|(line, path)| (line, path.to_owned())));
    }

    #[test]
    fn paths_in_expressions_are_joined() {
        assert!(has("let t = std::time::Instant::now();", "std::time::Instant::now"));
        assert!(has("fn f() -> std::net\n    ::IpAddr {}", "std::net::IpAddr"));
    }

    #[test]
    fn comments_and_strings_name_nothing() {
        for source in [
            "// Instant::now()",
            "/* a /* nested */ Instant::now */",
            "let s = \"Instant::now\";",
            "let s = \"\\\"Instant::now\";",
            "let s = r#\"a \" Instant::now\"#;",
            "let s = br\"Instant::now\";",
        ] {
            assert!(!has(source, "Instant::now"), "{source}");
        }
        assert!(has("let c = '\"'; Instant::now()", "Instant::now"));
        assert!(has("let c = '\\''; fn f<'a>(x: &'a str) { Instant::now() }", "Instant::now"));
        assert!(has("let r = for_r; /* x */ Instant::now()", "Instant::now"));
    }

    #[test]
    fn test_items_are_left_out_and_lines_stay() {
        let source = "#[cfg(test)]\nmod tests {\n    fn f() { Instant::now() }\n}\nfn g() { Other::now() }\n";
        assert!(!has(source, "Instant::now"));
        assert!(paths(source).contains(&(5, "Other::now".into())));
        assert!(has("#[cfg(not(test))]\nfn f() { Instant::now() }", "Instant::now"));
        assert!(!has("#[cfg(all(test, unix))]\nuse std::fs;", "std::fs"));
        assert!(!has("#[cfg(test)]\n#[allow(x)]\nfn f(a: [u8; 3]) { std::fs::read(a) }", "std::fs::read"));
    }

    #[test]
    fn test_modules_in_other_files_are_named() {
        let code = Code::new("#[cfg(test)]\npub(crate) mod helpers;\nmod real;");
        assert_eq!(code.test_modules, ["helpers"]);
    }
}
