//! Engines that answer well, badly, in pieces and not at all, on sockets of their own.

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;

use super::*;

/// Serves each connection the next of some answers; returns what was asked.
async fn serve(answers: Vec<Vec<String>>, ask: impl AsyncFnOnce(Engine)) -> Vec<String> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("hushwire-{}-{number}", std::process::id()));
    let listener = UnixListener::bind(&path).unwrap();
    let served = tokio::spawn(async move {
        let mut asked = Vec::new();
        for pieces in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let length = stream.read(&mut request).await.unwrap();
            let request = String::from_utf8_lossy(&request[..length]).into_owned();
            asked.push(request.lines().next().unwrap_or_default().to_owned());
            for piece in pieces {
                stream.write_all(piece.as_bytes()).await.unwrap();
                tokio::task::yield_now().await;
            }
        }
        asked
    });
    ask(Engine::new(path.clone())).await;
    std::fs::remove_file(path).unwrap();
    served.await.unwrap()
}

fn block_on(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(test);
}

fn answer(status: &str, body: &str) -> Vec<String> {
    vec![format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len())]
}

fn chunked(pieces: &[&str]) -> Vec<String> {
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned();
    let chunk = |piece: &&str| format!("{:x}\r\n{piece}\r\n", piece.len());
    [head].into_iter().chain(pieces.iter().map(chunk)).collect()
}

fn by_name() -> Selector {
    Selector::Name("am".into())
}

#[test]
fn a_container_runs_or_not_or_is_not_there() {
    let runs = r#"{"Id":"1","Name":"/am","State":{"Running":true,"Pid":7,"Paused":false}}"#;
    let stopped = r#"{"Id":"1","Name":"/am","State":{"Running":false,"Pid":0}}"#;
    let restarting = r#"{"Name":"am","State":{"Running":true,"Restarting":true,"Pid":0}}"#;
    let missing = r#"{"message":"No such container: am"}"#;
    let answers = vec![
        answer("200 OK", runs),
        answer("200 OK", stopped),
        answer("200 OK", restarting),
        answer("404 Not Found", missing),
    ];
    block_on(async {
        let asked = serve(answers, async |engine| {
            let found = engine.find(&by_name()).await.unwrap();
            assert_eq!(found, Found::Running(Running { name: "am".into(), pid: 7 }));
            assert_eq!(engine.find(&by_name()).await.unwrap(), Found::Stopped);
            assert_eq!(engine.find(&by_name()).await.unwrap(), Found::Stopped);
            assert_eq!(engine.find(&by_name()).await.unwrap(), Found::Missing);
        });
        assert_eq!(asked.await[0], "GET /containers/am/json HTTP/1.1");
    });
}

#[test]
fn a_label_finds_the_one_that_runs_and_names_several() {
    let one = r#"[{"Id":"abc","Names":["/am"]}]"#;
    let runs = r#"{"Name":"/am","State":{"Running":true,"Pid":7}}"#;
    let two = r#"[{"Id":"2","Names":["/b"]},{"Id":"1","Names":["/a"]}]"#;
    let answers = vec![
        answer("200 OK", one),
        answer("200 OK", runs),
        answer("200 OK", two),
        answer("200 OK", "[]"),
    ];
    block_on(async {
        let label = Selector::Label("role=am".into());
        let asked = serve(answers, async |engine| {
            let found = engine.find(&label).await.unwrap();
            assert_eq!(found, Found::Running(Running { name: "am".into(), pid: 7 }));
            let several = Found::Several(vec!["a".into(), "b".into()]);
            assert_eq!(engine.find(&label).await.unwrap(), several);
            assert_eq!(engine.find(&label).await.unwrap(), Found::Missing);
        });
        let asked = asked.await;
        assert!(asked[0].contains("%22label%22%3A%5B%22role%3Dam%22%5D"), "{}", asked[0]);
        assert_eq!(asked[1], "GET /containers/abc/json HTTP/1.1");
    });
}

#[test]
fn events_are_heard_in_pieces_and_what_does_not_matter_is_not() {
    let pieces = [
        "{\"Type\":\"container\",\"Action\":\"exec_create: x\",\"id\":\"1\"}\n{\"status\":\"st",
        "art\",\"id\":\"1\",\"Action\":\"sta",
        "rt\"}",
        "\n{\"Action\":\"health_status: healthy\"}{\"status\":\"die\"}\n",
    ];
    block_on(async {
        serve(vec![chunked(&pieces)], async |engine| {
            let mut events = engine.events().await.unwrap();
            events.next().await.unwrap();
            events.next().await.unwrap();
            let error = events.next().await.unwrap_err();
            assert!(matches!(error, EngineError::Ended { .. }), "{error}");
        })
        .await;
    });
}

#[test]
fn bad_answers_are_errors_and_nothing_else() {
    let deep = "[".repeat(100_000);
    let answers = vec![
        vec!["SSH-2.0-OpenSSH\r\n".to_owned()],
        answer("200 OK", "{\"State\":{\"Pid\":-1}}"),
        answer("200 OK", &deep),
        answer("500 Oops", "{\"message\":\"driver \\u001b[31mfailed\"}"),
        vec!["HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n{\"Name\":\"am\"".to_owned()],
        vec![],
    ];
    block_on(async {
        serve(answers, async |engine| {
            let mut errors = Vec::new();
            for _ in 0..6 {
                errors.push(engine.find(&by_name()).await.unwrap_err());
            }
            use EngineError::{Ended, Odd};
            let [no_http, wrong, deep, refused, half, nothing] = &errors[..] else { panic!() };
            assert!(matches!((no_http, half, nothing), (Ended { .. }, Ended { .. }, Ended { .. })));
            assert!(matches!((wrong, deep), (Odd { .. }, Odd { .. })), "{wrong} {deep}");
            assert!(refused.to_string().ends_with(": 500: driver [31mfailed"), "{refused}");
            assert!(errors.iter().all(|error| error.to_string().lines().count() == 1));
        })
        .await;
        for body in ["}", "{\"Action\":7}"] {
            serve(vec![chunked(&[body])], async |engine| {
                let error = engine.events().await.unwrap().next().await.unwrap_err();
                assert!(matches!(error, EngineError::Odd { .. }), "{error}");
            })
            .await;
        }
    });
}

#[test]
fn a_socket_that_is_not_there_and_one_that_nobody_serves_say_what_to_do() {
    let error = |path: &Path| {
        let (mut text, engine) = (String::new(), Engine::new(path.to_owned()));
        block_on(async { text = engine.find(&by_name()).await.unwrap_err().to_string() });
        text
    };
    assert_eq!(
        error(Path::new("/run/not-there.sock")),
        "container engine /run/not-there.sock: No such file or directory (os error 2); start the engine, \
         or name its socket in [docker] (podman: /run/podman/podman.sock)"
    );
    let plain = std::env::temp_dir().join(format!("hushwire-plain-{}", std::process::id()));
    std::fs::write(&plain, "").unwrap();
    let text = error(&plain);
    std::fs::remove_file(&plain).unwrap();
    assert!(
        text.ends_with("nobody listens there: start the engine, or name its socket in [docker]")
    );
    let denied = EngineError::Unreachable {
        socket: "/run/docker.sock".into(),
        error: std::io::ErrorKind::PermissionDenied.into(),
    };
    assert_eq!(
        denied.to_string(),
        "container engine /run/docker.sock: permission denied; run hushwire as root, or in the group that \
         owns this socket"
    );
}

#[test]
fn containers_on_the_networks_of_a_driver_are_found() {
    let network = r#"{"Name":"gossip","Containers":{"c1":{"Name":"am","EndpointID":"e1"},
        "c2":{"Name":"gone","EndpointID":"e2"},"c3":{"Name":"ends","EndpointID":"e3"}}}"#;
    let runs = r#"{"NetworkSettings":{"SandboxKey":"/var/run/docker/netns/1"}}"#;
    let answers = vec![
        answer("200 OK", r#"[{"Id":"n1"},{"Id":"n2"},{"Id":"n3"}]"#),
        answer("200 OK", network),
        answer("200 OK", runs),
        answer("404 Not Found", r#"{"message":"No such container: c2"}"#),
        answer("200 OK", r#"{"NetworkSettings":{"SandboxKey":""}}"#),
        answer("200 OK", r#"{"Name":"other","Containers":null}"#),
        answer("404 Not Found", r#"{"message":"network n3 not found"}"#),
    ];
    block_on(async {
        let asked = serve(answers, async |engine| {
            let expected = Attendant {
                network: "n1".into(),
                endpoint: "e1".into(),
                container: "am".into(),
                sandbox: "/var/run/docker/netns/1".into(),
            };
            assert_eq!(engine.on_networks_of("hushwire").await.unwrap(), [expected]);
        });
        let asked = asked.await;
        assert!(asked[0].contains("/networks?filters=%7B%22driver%22%3A%5B%22hushwire%22%5D%7D"));
        assert_eq!(asked[2], "GET /containers/c1/json HTTP/1.1");
    });
}
