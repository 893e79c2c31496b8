//! An agent that answers with canned bodies, and remembers what it was asked.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// One canned answer.
#[derive(Clone)]
pub(crate) struct Canned {
    status: &'static str,
    headers: String,
    body: String,
}

impl Canned {
    pub(crate) fn ok(body: &str) -> Canned {
        Canned { status: "200 OK", headers: String::new(), body: body.into() }
    }

    pub(crate) fn refused(status: &'static str, sentence: &str) -> Canned {
        Canned { status, headers: String::new(), body: format!("{{\"error\":\"{sentence}\"}}") }
    }

    /// The same with another key beside the error.
    pub(crate) fn beside(self, key: &str, value: &str) -> Canned {
        let body = self.body.trim_end_matches('}').to_owned() + &format!(",\"{key}\":{value}}}");
        Canned { body, ..self }
    }

    pub(crate) fn with(self, header: &str) -> Canned {
        Canned { headers: format!("{}{header}\r\n", self.headers), ..self }
    }
}

/// Answers by method and target; of several canned answers each is given once, the last for ever.
pub(crate) struct Agent {
    pub address: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Agent {
    pub(crate) fn start(answers: &[(&str, Vec<Canned>)]) -> Agent {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address").to_string();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let owned = answers.iter().map(|(target, canned)| ((*target).to_owned(), canned.clone()));
        let answers: Arc<Mutex<HashMap<String, Vec<Canned>>>> = Arc::new(Mutex::new(owned.collect()));
        let seen = asked.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (answers, seen) = (answers.clone(), seen.clone());
                // A thread each: a blocking query must not keep others out.
                std::thread::spawn(move || answer(stream, &answers, &seen));
            }
        });
        Agent { address, asked }
    }

    /// Every request as `METHOD TARGET`, with its body on the next line if it had one.
    pub(crate) fn asked(&self) -> String {
        let asked = self.asked.lock().expect("the list");
        asked.iter().map(|line| format!("{line}\n")).collect()
    }
}

/// `None` where a client only looked whether somebody is there.
fn request(reader: &mut impl BufRead) -> Option<(String, String)> {
    let mut first = String::new();
    reader.read_line(&mut first).ok()?;
    let mut words = first.split_whitespace();
    let asked = format!("{} {}", words.next()?, words.next()?);
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        if line.trim().is_empty() {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some((asked, String::from_utf8(body).ok()?))
}

fn answer(mut stream: TcpStream, answers: &Mutex<HashMap<String, Vec<Canned>>>, seen: &Mutex<Vec<String>>) {
    let mut reader = BufReader::new(stream.try_clone().expect("a second handle"));
    let Some((asked, body)) = request(&mut reader) else { return };
    let line = if body.is_empty() { asked.clone() } else { format!("{asked}\n{body}") };
    seen.lock().expect("the list").push(line);
    let canned = answers.lock().expect("the answers").get_mut(&asked).map(|canned| match canned.len() {
        1 => canned[0].clone(),
        _ => canned.remove(0),
    });
    let canned = canned.unwrap_or_else(|| Canned::refused("404 Not Found", "no such path in this test"));
    let Canned { status, headers, body } = canned;
    let length = body.len();
    // A client that was stopped does not take its answer.
    let _gone = write!(
        stream,
        "HTTP/1.1 {status}\r\n{headers}Content-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    );
}
