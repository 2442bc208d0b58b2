//! Fuzzes batch bodies: every line is either stored, or reported as an error with its index.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use steadfast_fuzz::{SENTINEL_KEY, with_server};

fuzz_target!(|data: &[u8]| {
    with_server(|server| {
        let target = format!("/resources/stores/kv/{}/batch", server.store);
        let response = server.request("PUT", &target, "", data);
        assert!([200, 400, 413].contains(&response.status), "{response:?}");
        let report: Value = serde_json::from_slice(&response.body).expect("JSON");
        let errors = report["errors"].as_array().expect("errors");
        assert_eq!(errors.is_empty(), response.status == 200);
        let lines = data.split(|byte| *byte == b'\n').count() as u64;
        let mut last = None;
        for error in errors {
            let index = error["index"].as_u64().expect("an index");
            assert!(index < lines && last.is_none_or(|last| last < index), "{errors:?}");
            last = Some(index);
            let code = error["code"].as_str().expect("a code in quotes");
            assert!(["400", "413"].contains(&code), "{code}");
            assert!(!error["reason"].as_str().expect("a reason").is_empty());
        }
        if !String::from_utf8_lossy(data).contains(SENTINEL_KEY) && !data.contains(&b'\\') {
            server.assert_intact();
        }
    });
});
