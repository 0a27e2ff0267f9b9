//! Reads KBS messages with the protocol's published types and writes them again.
//!
//! A line in: {"kind": "Request", "message": …}. A line out: {"ok": the message as the types write it} or
//! {"error": why they do not take it}.

use serde::{de::DeserializeOwned, Serialize};
use serde_json::{json, Value};
use std::io::{self, BufRead};

fn again<T: DeserializeOwned + Serialize>(message: &Value) -> Value {
    match serde_json::from_value::<T>(message.clone()) {
        Ok(found) => json!({ "ok": found }),
        Err(error) => json!({ "error": error.to_string() }),
    }
}

fn main() {
    for line in io::stdin().lock().lines() {
        let asked: Value = serde_json::from_str(&line.expect("a line")).expect("JSON");
        let message = &asked["message"];
        let said = match asked["kind"].as_str().unwrap_or("") {
            "Request" => again::<kbs_types::Request>(message),
            "Challenge" => again::<kbs_types::Challenge>(message),
            "Attestation" => again::<kbs_types::Attestation>(message),
            "Response" => again::<kbs_types::Response>(message),
            "ErrorInformation" => again::<kbs_types::ErrorInformation>(message),
            other => json!({ "error": format!("no type {other}") }),
        };
        println!("{said}");
    }
}
