//! What the relay serves to people over HTTP, asked as a browser would.

mod common;

use std::net::SocketAddr;

use common::{Dir, edge_settings};
use relay::edge::{self, Edge};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

async fn get(addr: SocketAddr, path: &str) -> String {
    get_with(addr, path, "").await
}

async fn get_with(addr: SocketAddr, path: &str, headers: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(addr).await.unwrap();
    let request = format!("GET {path} HTTP/1.0\r\nHost: relay.example:8080\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

/// `path` and `kind` of all that a page asks for from here.
fn links(page: &str) -> Vec<String> {
    let attributes = ["href=\"", "src=\""];
    attributes
        .iter()
        .flat_map(|name| page.split(name).skip(1))
        .filter_map(|rest| rest.split('"').next())
        .map(str::to_owned)
        .collect()
}

#[tokio::test]
async fn the_status_page_is_there_without_a_player_and_loads_nothing_from_elsewhere() {
    let dir = Dir::new("site");
    let edge = Edge::new(edge_settings(&dir, None)).await.unwrap();
    let addr = edge.http_addr().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let task = tokio::spawn(edge.run_until(async {
        let _ = stopped.await;
    }));

    let page = get(addr, "/").await;
    assert!(page.starts_with("HTTP/1.0 200"), "{page}");
    assert!(page.contains("content-security-policy: default-src 'self';"), "{page}");
    let links = links(&page);
    assert!(links.len() >= 3, "{links:?}");
    for link in links {
        assert!(link.starts_with('/'), "{link} is from elsewhere");
        assert!(get(addr, &link).await.starts_with("HTTP/1.0 200"), "{link}");
    }
    assert!(get(addr, "/readyz").await.ends_with("\r\n\r\nok\n"));
    // A show cannot take the relay's own words.
    assert!(get(addr, "/status").await.starts_with("HTTP/1.0 404"));
    assert!(get(addr, "/tour/london").await.contains("this relay serves no page"));

    stop.send(()).unwrap();
    task.await.unwrap().unwrap();
    assert!(tokio::net::TcpStream::connect(addr).await.is_err(), "a stopped relay has left its port");
}

#[tokio::test]
async fn the_player_is_compressed_for_those_who_take_it() {
    let dir = Dir::new("compressed");
    let player = dir.0.join("page");
    std::fs::create_dir_all(player.join("assets")).unwrap();
    for (file, text) in [
        ("index.html", "page"),
        ("index.html.br", "page, small"),
        ("assets/main.js", "script"),
        ("assets/main.js.br", "script, small"),
        ("assets/style.css", "style"),
    ] {
        std::fs::write(player.join(file), text).unwrap();
    }
    let edge = Edge::new(edge::Settings { player: Some(player), ..edge_settings(&dir, None) }).await.unwrap();
    let addr = edge.http_addr().unwrap();
    let task = tokio::spawn(edge.run());
    let browser = "Accept-Encoding: gzip, deflate, br\r\n";
    for (path, headers, body, compressed) in [
        ("/tour/london", browser, "page, small", true),
        ("/assets/main.js", browser, "script, small", true),
        ("/assets/style.css", browser, "style", false),
        ("/assets/main.js", "", "script", false),
        ("/assets/main.js", "Accept-Encoding: gzip, brx\r\n", "script", false),
    ] {
        let answer = get_with(addr, path, headers).await;
        assert!(
            answer.starts_with("HTTP/1.0 200") && answer.ends_with(&format!("\r\n\r\n{body}")),
            "{answer}"
        );
        assert_eq!(answer.contains("content-encoding: br"), compressed, "{answer}");
        assert!(answer.contains("vary: accept-encoding"), "{answer}");
    }
    assert!(get(addr, "/assets/main.js.br").await.starts_with("HTTP/1.0 404"), "it is no file of its own");
    task.abort();
}
