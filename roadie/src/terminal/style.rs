//! Colours as ANSI sequences inside of a line, and cutting such a line.

/// What a text means; the words say it too, for those who see no colours.
#[derive(Clone, Copy)]
pub enum Tone {
    /// As it should be.
    Good,
    /// Worth a look.
    Uneasy,
    /// Something is lost, or about to be.
    Bad,
    /// Of less weight.
    Quiet,
    /// A heading.
    Strong,
}

/// The text in a colour.
pub fn paint(tone: Tone, text: &str) -> String {
    let code = match tone {
        Tone::Good => "32",
        Tone::Uneasy => "33",
        Tone::Bad => "1;31",
        Tone::Quiet => "2",
        Tone::Strong => "1",
    };
    format!("\x1b[{code}m{text}\x1b[0m")
}

/// The first `width` characters that can be seen, with their colours or without.
pub fn cut(line: &str, width: usize, colours: bool) -> String {
    let mut out = String::new();
    let (mut seen, mut coloured) = (0, false);
    let mut chars = line.chars();
    while let Some(char) = chars.next() {
        if char == '\x1b' {
            let mut sequence = String::from(char);
            for char in chars.by_ref() {
                sequence.push(char);
                if char.is_ascii_alphabetic() {
                    break;
                }
            }
            if colours {
                coloured = !sequence.ends_with("[0m");
                out.push_str(&sequence);
            }
        } else if seen < width {
            seen += 1;
            // Names of devices and reasons come from outside.
            out.push(if char.is_control() { ' ' } else { char });
        }
    }
    if coloured {
        out.push_str("\x1b[0m");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_line_has_its_colours_and_no_more_than_its_width() {
        let line = format!("ab{}ef", paint(Tone::Bad, "cd"));
        assert_eq!(cut(&line, 99, false), "abcdef");
        assert_eq!(cut(&line, 3, false), "abc");
        assert_eq!(cut(&line, 99, true), line);
        assert_eq!(cut(&line, 3, true), "ab\x1b[1;31mc\x1b[0m");
        assert_eq!(cut("a\tb\r\nc", 99, true), "a b  c");
        assert_eq!(cut("a\x1b[2", 99, true), "a\x1b[2\x1b[0m", "a torn sequence ends too");
    }
}
