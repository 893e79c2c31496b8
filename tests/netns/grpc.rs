//! gRPC behind the mesh: a real server and a real client, unary calls, a stream of answers, both streams at once, with
//! metadata, trailers and deadlines as they were sent.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Context, Poll, Service, http, tokio_stream};
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::transport::{Endpoint, Server};
use tonic::{Code, Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use crate::fleet::Fleet;
use crate::helper;
use crate::host::Host;
use crate::parts;
use crate::process::{Process, run};

const PORT: u16 = 50051;
const GRPC: &str = "[[service]]\nname = \"greet\"\nport = 50051\nprotocol = \"grpc\"\n\
                    [[service.check]]\ntcp = \"127.0.0.1:50051\"\ninterval = \"1s\"\n";

/// Messages of the long stream.
const STREAMED: usize = 1000;
/// Questions of the conversation, each asked after the answer to the one before.
const CONVERSED: usize = 200;
/// How long a call to `slow` takes, unless its deadline comes first.
const SLOW: Duration = Duration::from_secs(10);

fn serve(fleet: &Fleet, name: &str) -> Process {
    let host: &Host = &fleet[name];
    host.service("greet", GRPC);
    let mut command = helper::command(host, "grpc_server", &json!({ "name": name }));
    let process = Process::start("the gRPC server", &mut command, &host.folder().join("grpc.log"));
    parts::listens(host, PORT);
    process
}

#[test]
fn unary_calls_and_streams_both_ways_keep_their_metadata_trailers_and_deadlines() {
    let Some(fleet) = Fleet::raise(&["a", "b", "c"]) else { return };
    let servers = ["a", "b"].map(|name| serve(&fleet, name));
    fleet.mesh(&["a", "b", "c"]);
    fleet["c"].sees_passing("greet", &["a", "b"]);
    // Port 80 as for all of HTTP, and the service's own.
    for port in [80, PORT] {
        let arguments = json!({ "target": format!("http://greet.mesh.internal:{port}"), "hosts": ["a", "b"] });
        let done = run(&mut helper::command(&fleet["c"], "grpc_client", &arguments));
        println!("{}", done.expect("the gRPC client").trim());
    }
    // Without an instance a gRPC client is told so in gRPC's own words, or by a status that it maps to them.
    drop(servers);
    fleet["c"].sees_passing("greet", &[]);
    let arguments = json!({ "target": "http://greet.mesh.internal", "hosts": [] });
    run(&mut helper::command(&fleet["c"], "grpc_client", &arguments)).expect("the gRPC client without an instance");
    for host in ["a", "b", "c"] {
        fleet[host].assert_agent_runs();
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

// The server.

/// The health service, whose answers depend on the name asked for.
struct Greeter {
    name: String,
}

impl Greeter {
    fn answer<T>(&self, message: T) -> Response<T> {
        let mut response = Response::new(message);
        response.metadata_mut().insert("x-host", self.name.parse().expect("a host's name"));
        response
    }
}

fn serving() -> HealthCheckResponse {
    HealthCheckResponse { status: ServingStatus::Serving.into() }
}

/// An error with something in every field that gRPC has for it, all of which travels in trailers.
fn rich(message: &str, code: Code) -> Status {
    let mut metadata = MetadataMap::new();
    metadata.insert("x-reason", "because".parse().expect("ASCII"));
    metadata.insert_bin("x-detail-bin", MetadataValue::from_bytes(&[0, 1, 254, 255]));
    Status::with_details_and_metadata(code, message, vec![7, 0, 255].into(), metadata)
}

#[tonic::async_trait]
impl Health for Greeter {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        let given = request.metadata().get("x-given").cloned();
        match request.get_ref().service.as_str() {
            "slow" => tokio::time::sleep(SLOW).await,
            "missing" => return Err(rich("nobody is here: caf\u{e9} 100%", Code::NotFound)),
            _ => {}
        }
        let mut response = self.answer(serving());
        if let Some(given) = given {
            response.metadata_mut().insert("x-given", given);
        }
        Ok(response)
    }

    type WatchStream = tokio_stream::Iter<std::vec::IntoIter<Result<HealthCheckResponse, Status>>>;

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let mut messages = vec![Ok(serving()); STREAMED];
        if request.get_ref().service == "torn" {
            messages.push(Err(rich("the end comes after the messages", Code::Aborted)));
        }
        Ok(self.answer(tokio_stream::iter(messages)))
    }
}

/// Both services on one port, told apart by the path.
#[derive(Clone)]
struct Both<A, B>(A, B);

impl<A, B> Service<http::Request<Body>> for Both<A, B>
where
    A: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    A::Future: Send + 'static,
    B: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    B::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<http::Response<Body>, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        match request.uri().path().starts_with("/grpc.health.") {
            true => Box::pin(self.0.call(request)),
            false => Box::pin(self.1.call(request)),
        }
    }
}

/// The job `grpc_server`.
pub(crate) fn server(arguments: &Value) {
    let name = arguments["name"].as_str().expect("name").to_owned();
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .expect("the reflection service");
    let services = Both(HealthServer::new(Greeter { name }), reflection);
    let serving = async { Server::builder().serve(([127, 0, 0, 1], PORT).into(), services).await };
    runtime().block_on(serving).expect("the gRPC server");
}

// The client.

/// The job `grpc_client`.
pub(crate) fn client(arguments: &Value) {
    let target = arguments["target"].as_str().expect("target").to_owned();
    let hosts: Vec<String> = serde_json::from_value(arguments["hosts"].clone()).expect("hosts");
    runtime().block_on(async {
        let channel = Endpoint::from_shared(target).expect("a target").connect().await.expect("a connection");
        if hosts.is_empty() {
            let none = HealthClient::new(channel).check(ask("")).await.expect_err("no instance");
            assert_eq!(none.code(), Code::Unavailable, "{none:?}");
            assert_eq!(header(none.metadata(), "weft-error"), Some("no-instance"), "{none:?}");
            return;
        }
        let mut health = HealthClient::new(channel.clone());
        unary(&mut health, &hosts).await;
        errors(&mut health).await;
        deadline(&mut health).await;
        streams(&mut health).await;
        conversation(&mut ServerReflectionClient::new(channel)).await;
    });
}

type Greeters = HealthClient<tonic::transport::Channel>;

fn ask(service: &str) -> Request<HealthCheckRequest> {
    Request::new(HealthCheckRequest { service: service.to_owned() })
}

fn header<'a>(metadata: &'a MetadataMap, name: &str) -> Option<&'a str> {
    metadata.get(name).and_then(|value| value.to_str().ok())
}

/// Longer than a peak is remembered.
const SPREAD_DEADLINE: Duration = Duration::from_secs(30);

/// Calls on one connection are spread over the instances.
async fn unary(health: &mut Greeters, hosts: &[String]) {
    let mut answered = BTreeSet::new();
    let (mut number, begun) = (0, Instant::now());
    // A single slow answer, of a machine that is busy, keeps calls away from its instance for some seconds.
    while number < 100 || (answered.len() < hosts.len() && begun.elapsed() < SPREAD_DEADLINE) {
        let mut request = ask("");
        request.metadata_mut().insert("x-given", number.to_string().parse().expect("ASCII"));
        let response = health.check(request).await.expect("a unary call");
        assert_eq!(response.get_ref().status(), ServingStatus::Serving);
        assert_eq!(header(response.metadata(), "x-given"), Some(number.to_string().as_str()));
        answered.insert(header(response.metadata(), "x-host").expect("x-host").to_owned());
        number += 1;
    }
    assert_eq!(answered.into_iter().collect::<Vec<_>>(), hosts, "{number} calls on one connection");
}

fn assert_rich(status: &Status, code: Code, message: &str) {
    assert_eq!((status.code(), status.message()), (code, message), "{status:?}");
    assert_eq!(status.details(), [7, 0, 255], "{status:?}");
    assert_eq!(header(status.metadata(), "x-reason"), Some("because"), "{status:?}");
    let detail = status.metadata().get_bin("x-detail-bin").and_then(|value| value.to_bytes().ok());
    assert_eq!(detail.as_deref(), Some(&[0, 1, 254, 255][..]), "{status:?}");
}

async fn errors(health: &mut Greeters) {
    let missing = health.check(ask("missing")).await.expect_err("an error");
    assert_rich(&missing, Code::NotFound, "nobody is here: caf\u{e9} 100%");
}

/// The caller's deadline ends the call for all: `grpc-timeout` is the server's to read.
async fn deadline(health: &mut Greeters) {
    let mut request = ask("slow");
    request.set_timeout(Duration::from_millis(500));
    let start = Instant::now();
    let late = health.check(request).await.expect_err("a deadline");
    assert!(matches!(late.code(), Code::DeadlineExceeded | Code::Cancelled), "{late:?}");
    assert!(start.elapsed() < Duration::from_secs(3), "{:?} for a deadline of 500 ms", start.elapsed());
    health.check(ask("")).await.expect("a call after one that was given up");
}

async fn streams(health: &mut Greeters) {
    for (service, torn) in [("whole", false), ("torn", true)] {
        let mut stream = health.watch(ask(service)).await.expect("a stream").into_inner();
        let mut count = 0;
        let end = loop {
            match stream.message().await {
                Ok(Some(message)) => assert_eq!(message.status(), ServingStatus::Serving),
                Ok(None) => break None,
                Err(status) => break Some(status),
            }
            count += 1;
        };
        assert_eq!(count, STREAMED);
        match (torn, end) {
            (false, None) => {}
            (true, Some(status)) => assert_rich(&status, Code::Aborted, "the end comes after the messages"),
            (_, end) => panic!("{service}: the stream ended with {end:?}"),
        }
    }
    // Several at once on one connection.
    let mut open = Vec::new();
    for _ in 0..20 {
        open.push(health.watch(ask("whole")).await.expect("one of many streams").into_inner());
    }
    let mut counts = vec![0; open.len()];
    for _ in 0..STREAMED {
        for (stream, count) in open.iter_mut().zip(&mut counts) {
            *count += usize::from(stream.message().await.expect("a message").is_some());
        }
    }
    assert!(counts.iter().all(|count| *count == STREAMED), "{counts:?}");
}

/// Each question is sent when the answer to the one before is here, all on one call.
async fn conversation(reflection: &mut ServerReflectionClient<tonic::transport::Channel>) {
    let (questions, queue) = tokio::sync::mpsc::channel(1);
    let question = |request| ServerReflectionRequest { host: String::new(), message_request: Some(request) };
    questions.send(question(MessageRequest::ListServices(String::new()))).await.expect("the first question");
    let mut answers = reflection.server_reflection_info(Queue(queue)).await.expect("a conversation").into_inner();
    for number in 0..CONVERSED {
        let answer = answers.message().await.expect("an answer").expect("an answer before the end");
        match answer.message_response.expect("a response") {
            MessageResponse::ListServicesResponse(list) if number % 2 == 0 => {
                let names: Vec<&str> = list.service.iter().map(|service| service.name.as_str()).collect();
                assert!(names.contains(&"grpc.health.v1.Health"), "{names:?}");
            }
            MessageResponse::FileDescriptorResponse(files) if number % 2 == 1 => {
                assert!(files.file_descriptor_proto.iter().any(|file| file.len() > 100));
            }
            other => panic!("answer {number} is {other:?}"),
        }
        let next = match number % 2 {
            0 => MessageRequest::FileContainingSymbol("grpc.health.v1.Health".to_owned()),
            _ => MessageRequest::ListServices(String::new()),
        };
        questions.send(question(next)).await.expect("the next question");
    }
    drop(questions);
    // The answer to the last question, then the end with its trailers.
    assert!(answers.message().await.expect("the last answer").is_some());
    assert!(answers.message().await.expect("the end").is_none());
    let trailers = answers.trailers().await.expect("trailers");
    assert!(trailers.is_some(), "no trailers at the end of a conversation");
}

/// A channel as a stream.
struct Queue(tokio::sync::mpsc::Receiver<ServerReflectionRequest>);

impl tokio_stream::Stream for Queue {
    type Item = ServerReflectionRequest;

    fn poll_next(mut self: std::pin::Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(context)
    }
}
