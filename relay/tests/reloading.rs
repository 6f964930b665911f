//! SIGHUP: what a running relay takes of changed settings, what it names, and what it refuses.

mod common;
#[path = "common/process.rs"]
mod process;
#[path = "common/programs.rs"]
mod programs;

use common::Dir;
use process::Process;
use programs::Program;
use rustix::process::Signal;

/// Whether a program that shows this token is let in, beside what is on the air.
async fn takes(relay: &Process, token: &str, beside: &[&str]) -> bool {
    let address = relay.stage.address("moqt", &format!("?jwt={token}"));
    let mut program = Program::one(address, "asked");
    let both: Vec<_> = ["asked"].iter().chain(beside).copied().collect();
    let taken = tokio::select! {
        _ = program.ended() => false,
        () = relay.stage.until_on_air(&both) => true,
    };
    drop(program);
    relay.stage.until_on_air(beside).await;
    taken
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_token_and_limit_are_taken_and_what_takes_a_restart_is_named() {
    let dir = Dir::new("reload");
    let config = dir.0.join("relay.toml");
    let write = |text: &str| std::fs::write(&config, text).unwrap();
    write("token = \"one\"\n");
    let mut relay = Process::start(&dir, &["--config", config.to_str().unwrap()]).await;
    assert!(takes(&relay, "one", &[]).await && !takes(&relay, "two", &[]).await);
    let _on_air = Program::one(relay.stage.address("moqt", "?jwt=one"), "show");
    relay.stage.until_on_air(&["show"]).await;

    // The address of HTTPS is bound at the start only.
    write("token = \"two\"\nhttps = \"127.0.0.1:0\"\nkeep = \"/nowhere\"\n");
    relay.signal(Signal::HUP);
    relay.says("the settings were read again").await;
    let named = relay.says("takes a restart").await;
    assert!(named.contains("--https, --keep takes"), "{named}");
    assert!(takes(&relay, "two", &["show"]).await && !takes(&relay, "one", &["show"]).await);
    // Who is in stays in.
    relay.stage.until_on_air(&["show"]).await;

    // Files that cannot be used change nothing, not even what is right in them.
    for (text, words) in [
        ("token = \"three\"\ntokn = 1\n", "tokn"),
        ("token = \"three\"\nmax-connections = 0\n", "--max-connections"),
        ("token = \"three\"\nauth = [\"/nowhere/keys.json\"]\n", "/nowhere/keys.json"),
    ] {
        write(text);
        relay.signal(Signal::HUP);
        let said = relay.says("The settings that there were stay").await;
        assert!(said.contains(words), "{said}");
        assert!(takes(&relay, "two", &["show"]).await && !takes(&relay, "three", &["show"]).await, "{text}");
    }

    write("token = \"two\"\nmax-connections = 1\n");
    relay.signal(Signal::HUP);
    relay.says("the settings were read again").await;
    // The show has the one connection of this address.
    assert!(!takes(&relay, "two", &["show"]).await);
    relay.stage.until_on_air(&["show"]).await;
    relay.signal(Signal::TERM);
}
