//! One event in all shapes, and what is no event.

use serde_json::json;

use super::*;

#[test]
fn the_same_event_reads_the_same_in_every_shape() {
    let cases: [(&str, &str, Value); 6] = [
        ("clid=1&event=client.add", r#"{"clid":1,"event":"client.add"}"#, json!({"clid":"1","event":"client.add"})),
        (
            "newparam%5Btitle%5D=%D0%9E%D0%9E%D0%9E+%22%D0%A0%22&newparam%5Bon%5D=1",
            r#"{"newparam":{"title":"ООО \"Р\"","on":true,"off":null,"none":[]}}"#,
            json!({"newparam":{"title":"ООО \"Р\"","on":"1"}}),
        ),
        ("clids%5B0%5D=10&clids%5B1%5D=11", r#"{"clids":["10",11]}"#, json!({"clids":["10","11"]})),
        (
            "info[7][olduser]=1&info[9][olduser]=2",
            r#"{"info":{"7":{"olduser":"1"},"9":{"olduser":"2"}}}"#,
            json!({"info":{"7":{"olduser":"1"},"9":{"olduser":"2"}}}),
        ),
        ("a[0]=x&a[2]=y&b=1.5", r#"{"a":["x",null,"y"],"b":1.5}"#, json!({"a":{"0":"x","2":"y"},"b":"1.5"})),
        ("ses=SESCOOKIE&clid=2", r#"{"ses":"SESCOOKIE","clid":"2"}"#, json!({"clid":"2"})),
    ];
    for (as_form, as_json, expected) in cases {
        assert_eq!(form(as_form.as_bytes()).map(Value::Object), Ok(expected.clone()), "{as_form}");
        assert_eq!(json(as_json.as_bytes()).map(Value::Object), Ok(expected), "{as_json}");
    }
}

#[test]
fn broken_input_is_refused_by_its_own_name() {
    let deep_json = format!("{}1{}", "{\"a\":".repeat(100), "}".repeat(100));
    let deep_form = format!("a{}=1", "[b]".repeat(100));
    let wide_form = (0..20_000).map(|n| format!("k{n}=1&")).collect::<String>();
    let wide_json = format!("{{{}\"end\":1}}", (0..20_000).map(|n| format!("\"k{n}\":1,")).collect::<String>());
    type Read = Result<Map<String, Value>, Error>;
    let unseen = |text: &str| text::invisible(text).unwrap();
    let cases: [(Read, Error); 18] = [
        (form(b"a=%zz"), Error::Percent(1)),
        (form(b"b=1&a=%4"), Error::Percent(2)),
        (form(b"a=%ff"), Error::Utf8("pair 1 of the form".into())),
        (json(b"{\"a\":\"\xff\"}"), Error::Utf8("byte 7".into())),
        (form("di\u{200b}d=5".as_bytes()), Error::Invisible("di\\u{200b}d".into(), unseen("di\u{200b}d"))),
        (form(b"a%5Bb%E2%80%8B%5D=1"), Error::Invisible("b\\u{200b}".into(), unseen("b\u{200b}"))),
        (json("{\"did\u{feff}\":5}".as_bytes()), Error::Invisible("did\\u{feff}".into(), unseen("did\u{feff}"))),
        (form(b"a[b=1"), Error::Brackets),
        (form(b"a[b]c=1"), Error::Brackets),
        (form(b"a=1&a=2"), Error::Duplicate("a".into())),
        (form(b"a=1&a[b]=2"), Error::Duplicate("a[b]".into())),
        (form(deep_form.as_bytes()), Error::Depth),
        (form(wide_form.as_bytes()), Error::Count),
        (json(b"[1]"), Error::NotObject),
        (json(b"\"a\""), Error::NotObject),
        (json(b"{\"a\":1,\"a\":2}"), Error::Duplicate("a".into())),
        (json(deep_json.as_bytes()), Error::Depth),
        (json(wide_json.as_bytes()), Error::Count),
    ];
    for (result, expected) in cases {
        assert_eq!(result, Err(expected));
    }
    for text in [&b"{"[..], b"{\"a\":}", b"{} x", b"", b"{\"a\":\"\\ud800\"}"] {
        assert!(matches!(json(text), Err(Error::Json(_))), "{text:?}");
    }
}

#[test]
fn a_mark_and_other_line_ends_mean_nothing() {
    let expected = Ok(json!({"event":"a.b","did":"5"}));
    for as_form in [
        "\u{feff}event=a.b&did=5",
        "%EF%BB%BFevent=a.b&did=5\r\n",
        "\u{feff}\u{feff} event=a.b&\r\ndid=5\n",
        "%ef%bb%bf%ef%bb%bfevent=a.b&+did+=5",
    ] {
        assert_eq!(form(as_form.as_bytes()).map(Value::Object), expected, "{as_form:?}");
    }
    for as_json in
        ["\u{feff}{\"event\":\"a.b\",\"did\":5}", "\u{feff}\u{feff}\r\n{\r\n\"event\":\"a.b\",\r\"did \":\t\"5\"}\r\n"]
    {
        assert_eq!(json(as_json.as_bytes()).map(Value::Object), expected, "{as_json:?}");
    }
    for (wrong, words) in [
        ("{\"event\":\r\n \u{200b}\"a.b\"}", "U+200B (line 2, character 2)"),
        ("{\"event\":\"a.b\"}\u{feff}", "U+FEFF (line 1, character 16)"),
        ("{\"event\":\u{a0}\"a.b\"}", "line 1 column 10"),
        ("{\"a\":12345678901234567890,\"b\"}", "line 1 column 30"),
    ] {
        let told = json(wrong.as_bytes()).unwrap_err();
        assert!(matches!(&told, Error::Json(said) if said.contains(words)), "{wrong:?}: {told}");
    }
    // What people typed into a value is theirs.
    let typed = json("{\"title\":\" a\u{200d}b\u{feff} \"}".as_bytes());
    assert_eq!(typed.map(Value::Object), Ok(json!({"title":" a\u{200d}b\u{feff} "})));
}

#[test]
fn an_empty_array_of_phps_holds_nothing() {
    assert_eq!(json(b" [ ] "), Ok(Map::new()));
    assert_eq!(json(b"{}"), Ok(Map::new()));
    assert_eq!(json(b"null"), Err(Error::NotObject));
}

#[test]
fn a_number_keeps_the_digits_that_were_sent() {
    for digits in [
        "9007199254740993",
        "18446744073709551616",
        "-123456789012345678901234567890",
        "0.1234567890123456789",
        "1.10",
        "1e400",
        "-1E-400",
        "-0",
    ] {
        let body = format!("{{\"a\":{digits},\"b\":[{digits} ,{{\"c\" : {digits}\n}}],\"d\":\"\\\"{digits}\"}}");
        let expected = json!({"a":digits,"b":[digits,{"c":digits}],"d":format!("\"{digits}")});
        assert_eq!(json(body.as_bytes()).map(Value::Object), Ok(expected), "{digits}");
    }
    for wrong in [
        "{1:2}",
        "{\"a\":01}",
        "{\"a\":1.}",
        "{\"a\":.5}",
        "{\"a\":+1}",
        "{\"a\":1e}",
        "{\"a\":1 2}",
        "{\"a\":--1}",
        "{\"a\":0x1}",
        "{\"a\":1\"b\"}",
    ] {
        assert!(matches!(json(wrong.as_bytes()), Err(Error::Json(_))), "{wrong}");
    }
}

#[test]
fn an_import_of_five_thousand_rows_passes() {
    let body: String = (0..5_000).map(|n| format!("clids%5B{n}%5D={n}&pids%5B{n}%5D={n}&")).collect();
    let fields = form(format!("{body}autor=1&event=client.import&identity=1&iduser1=1").as_bytes()).unwrap();
    assert_eq!(fields["clids"].as_array().map(Vec::len), Some(5_000));
    assert_eq!(fields["iduser1"], "1");
}

#[test]
fn a_bracket_that_php_appends_does_not_overwrite() {
    assert_eq!(form(b"a[]=x&a[]=y").map(Value::Object), Ok(json!({"a":["x","y"]})));
    assert_eq!(form(b"a[b]=x&a[]=y"), Err(Error::Brackets));
}

/// Fields as senders have them: text at the leaves, no empty groups.
fn fields() -> impl proptest::strategy::Strategy<Value = Value> {
    use proptest::prelude::*;
    let leaf = "\\PC{0,12}|[0-9]{1,25}|[ \t\r\n\"\\\\]{0,3}".prop_map(Value::String);
    let inner = leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 1..4).prop_map(Value::Array),
            proptest::collection::btree_map("[a-z_][a-z0-9_.]{0,6}", inner, 1..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    });
    proptest::collection::btree_map("[a-z_][a-z0-9_]{0,8}", inner, 1..6)
        .prop_map(|map| Value::Object(map.into_iter().filter(|(key, _)| key != "ses").collect()))
}

/// What PHP's `http_build_query` makes of it, and `CURLOPT_POSTFIELDS` where it is given names in brackets.
fn pairs(name: &str, value: &Value, into: &mut Vec<(String, String)>) {
    let below = |key: &str| if name.is_empty() { key.to_owned() } else { format!("{name}[{key}]") };
    match value {
        Value::Object(object) => object.iter().for_each(|(key, value)| pairs(&below(key), value, into)),
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(index, value)| pairs(&below(&index.to_string()), value, into));
        }
        leaf => into.push((name.to_owned(), leaf.as_str().unwrap_or_default().to_owned())),
    }
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..400)) {
        drop((form(&bytes), json(&bytes)));
    }

    #[test]
    fn nearly_json_is_read_whole_or_refused(text in "[\\[\\]{}\",:\\\\0-9.eE+\\-tn \u{feff}\u{200b}]{0,40}") {
        let text = format!("{{\"a\":{text}}}");
        let strict = serde_json::from_str::<serde::de::IgnoredAny>(text.trim_start_matches('\u{feff}')).is_ok();
        match json(text.as_bytes()) {
            Ok(_) => proptest::prop_assert!(strict, "what is no JSON was read: {}", text),
            Err(Error::Json(said)) => proptest::prop_assert!(!strict || said.contains("escape"), "{}: {}", text, said),
            Err(_) => {}
        }
    }

    #[test]
    fn an_event_is_the_same_in_every_shape(fields in fields()) {
        let expected = Ok(fields.clone());
        let mut all = Vec::new();
        pairs("", &fields, &mut all);
        let encode = |text: &str| percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string();
        let encoded: Vec<String> = all.iter().map(|(name, value)| format!("{}={}", encode(name), encode(value))).collect();
        proptest::prop_assert_eq!(&form(encoded.join("&").as_bytes()).map(Value::Object), &expected);
        proptest::prop_assert_eq!(&json(fields.to_string().as_bytes()).map(Value::Object), &expected);
        // Numbers without quotes are the same as with.
        let bare = fields.to_string().replace("\":\"1\"", "\":1");
        proptest::prop_assert_eq!(&json(bare.as_bytes()).map(Value::Object), &expected);
        let parts: String = all
            .iter()
            .map(|(name, value)| format!("--=B=\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n"))
            .collect();
        let body = axum::body::Bytes::from(format!("{parts}--=B=--\r\n"));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let read = runtime.block_on(crate::ingress::multipart::fields(body, "=B=".to_owned()));
        proptest::prop_assert_eq!(read.map(Value::Object).map_err(|error| error.to_string()), Ok(fields));
    }
}
