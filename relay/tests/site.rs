//! What the relay serves to people over HTTP, asked as a browser would.

mod common;

use std::net::SocketAddr;

use common::{Dir, edge_settings};
use relay::edge::Edge;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

async fn get(addr: SocketAddr, path: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(addr).await.unwrap();
    let request = format!("GET {path} HTTP/1.0\r\nHost: relay.example:8080\r\n\r\n");
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
