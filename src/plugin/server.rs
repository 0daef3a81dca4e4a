//! The socket on which the engine finds its driver, and the conversations on it: HTTP/1.1, one question a
//! request.
//!
//! Each question becomes a [`Call`] to the daemon, which answers it or says why not. Only the owner may
//! connect (mode 0600): the engine runs as root. Whoever cannot be understood is told so and changes
//! nothing. Served beside the control socket, on the same runtime.

use std::convert::Infallible;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Response, StatusCode, server};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::protocol::{Answer, BadRequest, Request};
use crate::uapi::{BindError, SocketFile, listen_unless_served};

/// Where the engine looks for plugins: it takes the name of the driver from that of the file.
pub const SOCKET: &str = "/run/docker/plugins/hushwire.sock";

/// By this name the engine knows the driver: that of the file.
pub const DRIVER: &str = "hushwire";

/// Bytes of one question: those of an engine have a few hundred.
const BODY_LIMIT: usize = 1 << 20;

/// A question, and where its answer goes.
#[derive(Debug)]
pub struct Call {
    /// What is asked.
    pub request: Request,
    /// Takes the answer, or why there is none.
    pub reply: oneshot::Sender<Result<Answer, String>>,
}

/// The driver's socket; its file is removed when this is dropped.
#[derive(Debug)]
pub struct Server {
    /// Goes with this, before the socket does.
    _file: SocketFile,
    listener: UnixListener,
}

impl Server {
    /// Listens where the engine looks. Runs inside a tokio runtime.
    ///
    /// # Errors
    /// [`BindError`], among them that another process serves the engine. A socket file that nobody
    /// listens on is replaced.
    pub fn bind(path: &Path) -> Result<Self, BindError> {
        // As the engine makes its own: others must be able to pass through it, not to write.
        let directory = path.parent().unwrap_or(Path::new("/"));
        DirBuilder::new().recursive(true).mode(0o711).create(directory).map_err(|error| {
            BindError::System { doing: "make the directory", path: directory.to_owned(), error }
        })?;
        let (listener, file) = listen_unless_served(path)?;
        Ok(Self { _file: file, listener })
    }

    /// Serves the engine until the receiver of the calls is dropped.
    pub async fn serve(self, calls: mpsc::Sender<Call>) {
        // Dropped with this future, and the conversations with it.
        let mut conversations = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = calls.closed() => return,
            };
            while conversations.try_join_next().is_some() {}
            match accepted {
                Ok((stream, _)) => {
                    conversations.spawn(converse(stream, calls.clone()));
                }
                Err(error) => {
                    // Out of descriptors, most likely: they come back, a busy loop would not help.
                    tracing::warn!(%error, "network driver: cannot accept the engine");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

async fn converse(stream: UnixStream, calls: mpsc::Sender<Call>) {
    let service = service_fn(|request| {
        let calls = calls.clone();
        async move { Ok::<_, Infallible>(response(&respond(request, &calls).await)) }
    });
    let served =
        server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
    if let Err(error) = served {
        tracing::debug!(%error, "network driver: conversation broken off");
    }
}

/// Why there is no answer: what HTTP calls it, and the sentence.
type Refusal = (StatusCode, String);

async fn respond(
    request: hyper::Request<Incoming>,
    calls: &mpsc::Sender<Call>,
) -> Result<Answer, Refusal> {
    if request.method() != Method::POST {
        return Err((StatusCode::METHOD_NOT_ALLOWED, "questions are sent by POST".into()));
    }
    let name = request.uri().path().trim_start_matches('/').to_owned();
    let body = Limited::new(request.into_body(), BODY_LIMIT).collect().await;
    let body = body.map_err(|error| (StatusCode::BAD_REQUEST, format!("{name}: {error}")))?;
    let request = Request::read(&name, &body.to_bytes()).map_err(|bad| match bad {
        // So the engine knows a question that need not be answered (pkg/plugins, `IsNotFound`).
        BadRequest::Unknown(_) => (StatusCode::NOT_FOUND, bad.to_string()),
        BadRequest::Malformed(_) => (StatusCode::BAD_REQUEST, bad.to_string()),
    })?;
    tracing::debug!(name, "asked by the engine");
    let (reply, answer) = oneshot::channel();
    let ended = || (StatusCode::SERVICE_UNAVAILABLE, "hushwire is ending".to_owned());
    calls.send(Call { request, reply }).await.map_err(|_| ended())?;
    let refused = |why: String| {
        tracing::warn!(name, why, "refused to the engine");
        (StatusCode::INTERNAL_SERVER_ERROR, format!("hushwire: {why}"))
    };
    answer.await.map_err(|_| ended())?.map_err(refused)
}

/// An error as the engine shows it; both kinds of plugins are read like this when the status is not 200.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Failure<'a> {
    err: &'a str,
}

fn response(outcome: &Result<Answer, Refusal>) -> Response<Full<Bytes>> {
    let (status, body) = match outcome {
        Ok(answer) => (StatusCode::OK, serde_json::to_vec(answer)),
        Err((status, why)) => (*status, serde_json::to_vec(&Failure { err: why })),
    };
    let mut response = Response::new(Full::new(Bytes::from(body.unwrap_or_default())));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::plugin::{Driver, Step};
    use crate::sys::attach::AttachRequest;
    use crate::sys::netns::Namespace;

    /// Serves a driver without an engine and without an interface, and puts questions to it.
    async fn converse_with(questions: &[(&str, &str)]) -> Vec<String> {
        let directory: PathBuf =
            std::env::temp_dir().join(format!("hushwire-driver-{}", std::process::id()));
        let path = directory.join("plugins/hushwire.sock");
        let server = Server::bind(&path).unwrap();
        assert!(matches!(Server::bind(&path), Err(BindError::InUse(_))));
        let (call, mut calls) = mpsc::channel(1);
        tokio::spawn(server.serve(call));
        tokio::spawn(async move {
            let overlay = AttachRequest {
                namespace: Namespace::Own,
                name: "hush0".into(),
                addresses: vec!["10.99.0.1/32".parse().unwrap()],
                routes: vec!["10.99.0.2/32".parse().unwrap()],
                mtu: 1440,
            };
            let (mut driver, mut occupied) = (Driver::default(), false);
            while let Some(Call { request, reply }) = calls.recv().await {
                let answer = driver.handle(request, &overlay, occupied).map(|step| match step {
                    Step::Answer(answer) => answer,
                    Step::Attach(answer) => {
                        occupied = true;
                        answer
                    }
                    Step::Detach(answer) => {
                        occupied = false;
                        answer
                    }
                });
                reply.send(answer).unwrap();
            }
        });
        let mut answers = Vec::new();
        for (line, body) in questions {
            let mut engine = UnixStream::connect(&path).await.unwrap();
            let length = body.len();
            let request = format!(
                "{line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
            );
            engine.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            engine.read_to_string(&mut answer).await.unwrap();
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            answers.push(format!("{} {body}", head.split(' ').nth(1).unwrap()));
        }
        std::fs::remove_dir_all(directory).unwrap();
        answers
    }

    #[test]
    fn an_engine_makes_a_network_starts_a_container_and_stops_it() {
        let create = |id| {
            format!(
                r#"{{"NetworkID":"n","EndpointID":"{id}","Interface":{{"Address":"10.99.0.1/32"}}}}"#
            )
        };
        let (first, second) = (create("a"), create("b"));
        let questions = [
            ("POST /Plugin.Activate", ""),
            ("POST /NetworkDriver.GetCapabilities", ""),
            (
                "POST /IpamDriver.RequestPool",
                r#"{"AddressSpace":"hushwire","Pool":"","SubPool":"","V6":false}"#,
            ),
            ("POST /IpamDriver.RequestAddress", r#"{"PoolID":"overlay-ipv4","Address":""}"#),
            ("POST /NetworkDriver.CreateEndpoint", &first),
            ("POST /NetworkDriver.Join", r#"{"NetworkID":"n","EndpointID":"a","SandboxKey":"/x"}"#),
            ("POST /NetworkDriver.CreateEndpoint", &second),
            ("POST /NetworkDriver.Leave", r#"{"NetworkID":"n","EndpointID":"a"}"#),
            ("POST /NetworkDriver.CreateEndpoint", &second),
            ("POST /NetworkDriver.AllocateNetwork", "{}"),
            ("POST /NetworkDriver.Join", "{"),
            ("GET /Plugin.Activate", ""),
        ];
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let answers = runtime.block_on(converse_with(&questions));
        let expected = [
            r#"200 {"Implements":["NetworkDriver","IpamDriver"]}"#,
            r#"200 {"Scope":"local","ConnectivityScope":"global"}"#,
            r#"200 {"PoolID":"overlay-ipv4","Pool":"0.0.0.0/0","Data":{"com.docker.network.gateway":"10.99.0.1/32"}}"#,
            r#"200 {"Address":"10.99.0.1/32"}"#,
            "200 {}",
            r#"200 {"InterfaceName":{"SrcName":"hush0","DstPrefix":"hush"},"StaticRoutes":[{"Destination":"10.99.0.2/32","RouteType":1}]}"#,
            r#"500 {"Err":"hushwire: this machine's overlay address 10.99.0.1 is in use by another container, and only one can have it: stop that one first (docker ps --filter network=n)"}"#,
            "200 {}",
            "200 {}",
            r#"404 {"Err":"hushwire's network driver has no \"NetworkDriver.AllocateNetwork\""}"#,
            r#"400 {"Err":"NetworkDriver.Join: EOF while parsing an object at line 1 column 1"}"#,
            r#"405 {"Err":"questions are sent by POST"}"#,
        ];
        assert_eq!(answers, expected);
    }
}
