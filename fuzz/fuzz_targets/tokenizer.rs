//! tokenizer.json; the same bytes as its configuration, and as tiktoken.model.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    for name in ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"] {
        let mut files = quantpress_fuzz::tiny();
        files.insert(name, data);
        quantpress_fuzz::plan(files);
    }
    let mut files = quantpress_fuzz::tiny();
    files.remove("tokenizer.json");
    files.insert("tokenizer_config.json", r#"{"tokenizer_class": "TikTokenTokenizer", "eos_token_id": 0}"#);
    files.insert("tiktoken.model", data);
    quantpress_fuzz::plan(files);
});
