//! `roadie token`, as typed: keys and tickets, and wrong words.

mod common;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use common::{Dir, roadie};

fn token(dir: &Path, line: &str) -> Output {
    let words = line.split(' ').filter(|word| !word.is_empty());
    let run = Command::new(roadie()).arg("token").args(words).current_dir(dir).stdin(Stdio::null()).output();
    run.unwrap()
}

fn good(dir: &Path, line: &str) -> String {
    let output = token(dir, line);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{line}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

fn bad(dir: &Path, line: &str) -> String {
    let output = token(dir, line);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{line} was accepted");
    assert!(!errors.contains("panicked"), "{errors}");
    errors
}

#[test]
fn a_key_is_made_a_ticket_signed_and_shown() {
    let dir = Dir::new("token");
    let dir = dir.join("");
    good(&dir, "key");
    let mode = |name: &str| std::fs::metadata(dir.join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("roadie-key.jwk"), mode("roadie-keys.json")), (0o600, 0o644));
    let public = std::fs::read_to_string(dir.join("roadie-keys.json")).unwrap();
    assert!(!public.contains("\"d\""), "{public}");

    let ticket =
        good(&dir, "sign --subscribe tour/london --publish open/** --expires 2h --sessions 3 --id row7");
    std::fs::write(dir.join("ticket"), &ticket).unwrap();
    let shown = good(&dir, "show ticket --keys roadie-keys.json");
    for word in ["EdDSA", "tour/london", "open/**", "3 at once", "row7", "signature  good", "119 min left"] {
        assert!(shown.contains(word), "{word} is not in\n{shown}");
    }
    assert_eq!(good(&dir, &format!("show {} --keys roadie-keys.json", ticket.trim())), shown);

    // A second key joins the set; tickets of both are good. A shared secret is nobody else's.
    good(&dir, "key --out second.jwk --algorithm ES256");
    let second = good(&dir, "sign --key second.jwk --subscribe ** --expires 1d");
    for ticket in [&ticket, &second] {
        good(&dir, &format!("show {} --keys roadie-keys.json", ticket.trim()));
    }
    good(&dir, "key --out secret.jwk --public secret.json --algorithm HS256");
    assert_eq!(mode("secret.json"), 0o600);
    let foreign = good(&dir, "sign --key secret.jwk --subscribe ** --expires 1d");
    assert!(
        bad(&dir, &format!("show {} --keys roadie-keys.json", foreign.trim())).contains("not signed with")
    );
}

#[test]
fn wrong_words_of_tokens_are_named() {
    let dir = Dir::new("tokens");
    let dir = dir.join("");
    good(&dir, "key");
    good(&dir, "key --out named.jwk --public named.json --id seven");
    std::fs::write(dir.join("rubbish"), "rubbish").unwrap();
    std::fs::write(dir.join("huge"), vec![b'x'; 100_000]).unwrap();
    for (line, words) in [
        ("key", &["roadie-key.jwk", "not written over", "--out"][..]),
        ("key --out a --public named.json --id seven", &["named.json", "seven", "--id"]),
        ("key --out a --public a", &["same file"]),
        ("key --out a --public /no/such/b", &["/no/such/b"]),
        ("key --out /no/such/a --public b", &["/no/such/a"]),
        ("key --out a --public rubbish", &["rubbish", "--public"]),
        ("key --out a --public huge", &["huge", "64 kB"]),
        ("key --out a --algorithm RS256", &["RS256", "EdDSA"]),
        ("sign --expires 2h", &["--subscribe", "--publish"]),
        ("sign --subscribe a//b --expires 2h", &["--subscribe", "a//b", "tour/**"]),
        ("sign --subscribe ../x --expires 2h", &["--subscribe", "../x", "tour/london"]),
        ("sign --publish hls/* --expires 2h", &["--publish", "keeps for itself"]),
        ("sign --subscribe a --expires soon", &["--expires", "soon", "2h"]),
        ("sign --subscribe a --expires 0s", &["0s", "one second"]),
        ("sign --subscribe a --expires 400d", &["400d", "366 days"]),
        ("sign --subscribe a --expires 1h --not-before 2h", &["--not-before"]),
        ("sign --subscribe a --expires 1h --sessions 0", &["--sessions 0"]),
        ("sign --subscribe a --expires 1h --key /no/such/key", &["/no/such/key"]),
        ("sign --subscribe a --expires 1h --key rubbish", &["rubbish", "JSON Web Key"]),
        ("sign --subscribe a --expires 1h --key roadie-keys.json", &["roadie-keys.json"]),
        ("show rubbish", &["JWT"]),
        ("show huge", &["huge"]),
        ("show /no/such/ticket", &["/no/such/ticket"]),
        ("show a.b.c", &["base64url"]),
        ("show", &["JWT"]),
    ] {
        let told = bad(&dir, line);
        for word in words {
            assert!(told.contains(word), "{line}: {word} is not in {told}");
        }
        assert_eq!(told.trim_end().lines().count(), 1, "{line}: {told}");
    }
    let before = std::fs::read(dir.join("rubbish")).unwrap();
    assert_eq!(before, b"rubbish", "a file that is no set is left alone");
    assert!(!dir.join("a").exists() && !dir.join("b.new").exists());
    let long: String = (0..200).map(|n| format!(" --subscribe show/number/{n}")).collect();
    assert!(bad(&dir, &format!("sign --expires 1h{long}")).contains("fewer paths"));
    // What has expired is shown, and refused.
    let past = r#"{"alg":"EdDSA"}"#;
    let claims = r#"{"get":"","exp":1700000000}"#;
    let b64 = |text: &str| {
        let output = Command::new("sh")
            .args(["-c", "printf %s \"$0\" | base64 -w0 | tr '+/' '-_' | tr -d =", text])
            .output();
        String::from_utf8(output.unwrap().stdout).unwrap()
    };
    let told = bad(&dir, &format!("show {}.{}.AAAA", b64(past), b64(claims)));
    assert!(told.contains("has expired"), "{told}");
}
