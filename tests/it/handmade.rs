//! Modules written by hand, which break the contract in ways that no compiler would: each ends as its own named fault.

use integration_tests::guest::{MANIFEST, VERSION, custom_section, section};
use integration_tests::host::Setup;

/// What the event's handler does; it returns the place of its reply.
struct Case {
    name: &'static str,
    code: &'static str,
    words: &'static str,
    /// More fields of the module.
    fields: &'static str,
    /// The handler's body.
    body: &'static str,
}

/// The one that wants 250 MiB from the start.
const LARGE: &str = "large-at-start";

const fn case(name: &'static str, code: &'static str, words: &'static str, body: &'static str) -> Case {
    Case { name, code, words, fields: "", body }
}

/// A reply starts with its number (0 done, 1 skip); a text follows at 8 as place and length.
const CASES: &[Case] = &[
    case("wild-reply", "plugin.bad_pointer", "not in its memory", "i32.const 0x7fffff00"),
    case("odd-reply", "plugin.bad_pointer", "not in its memory", "i32.const 1025"),
    case(
        "lying-length",
        "plugin.bad_pointer",
        "not in its memory",
        "(i32.store8 (i32.const 1024) (i32.const 1)) (i32.store (i32.const 1032) (i32.const 16)) (i32.store (i32.const 1036) (i32.const 0x7fffffff)) i32.const 1024",
    ),
    case(
        "wild-text",
        "plugin.bad_pointer",
        "not in its memory",
        "(i32.store8 (i32.const 1024) (i32.const 1)) (i32.store (i32.const 1032) (i32.const 0xfffffff0)) (i32.store (i32.const 1036) (i32.const 8)) i32.const 1024",
    ),
    case(
        "not-utf8",
        "plugin.bad_text",
        "not UTF-8",
        "(i32.store8 (i32.const 1024) (i32.const 1)) (i32.store (i32.const 1032) (i32.const 2048)) (i32.store (i32.const 1036) (i32.const 2)) (i32.store16 (i32.const 2048) (i32.const 0xfeff)) i32.const 1024",
    ),
    case(
        "unknown-reply",
        "plugin.bad_value",
        "does not know",
        "(i32.store8 (i32.const 1024) (i32.const 9)) i32.const 1024",
    ),
    case(
        "wild-log",
        "plugin.bad_pointer",
        "not in its memory",
        "(call $log (i32.const 1) (i32.const 0x7ffffff0) (i32.const 100)) i32.const 1024",
    ),
    case(
        "unknown-level",
        "plugin.bad_value",
        "does not know",
        "(call $log (i32.const 77) (i32.const 16) (i32.const 1)) i32.const 1024",
    ),
    case(
        "log-not-utf8",
        "plugin.bad_text",
        "not UTF-8",
        "(i32.store16 (i32.const 2048) (i32.const 0xfeff)) (call $log (i32.const 1) (i32.const 2048) (i32.const 2)) i32.const 1024",
    ),
    case(
        "table-bomb",
        "plugin.table_limit",
        "elements",
        "(loop $more (br_if $more (i32.ne (table.grow $t (ref.null func) (i32.const 10000)) (i32.const -1)))) unreachable",
    ),
    case("no-message", "plugin.trap", "unreachable", "unreachable"),
    case("divides-by-zero", "plugin.trap", "divide by zero", "(i32.div_u (i32.const 1) (i32.const 0))"),
    case("reads-outside", "plugin.trap", "out of bounds memory", "(i32.load (i32.const 0x7fffff00))"),
    case("calls-nothing", "plugin.trap", "element", "(call_indirect $t (type $nothing) (i32.const 0)) i32.const 1024"),
    Case {
        fields: "(start $trap)",
        ..case("traps-at-start", "plugin.start", "could not be started", "i32.const 1024")
    },
    Case { fields: "(start $loop)", ..case("loops-at-start", "plugin.cpu_limit", "processor time", "i32.const 1024") },
    case(LARGE, "plugin.memory_limit", "16 MiB", "i32.const 1024"),
    Case {
        fields: "(global $lie (mut i32) (i32.const 0x7ffffff0))",
        ..case("lying-allocator", "plugin.bad_pointer", "not in its memory", "i32.const 1024")
    },
];

fn module(case: &Case, contract: &(String, &[u8])) -> Vec<u8> {
    let lies = case.fields.contains("$lie");
    let text = format!(
        "(module
            (type $nothing (func))
            (import \"salesman:plugin/log@1.0.0\" \"write\" (func $log (param i32 i32 i32)))
            (memory $own (export \"memory\") {})
            (table $t 1 funcref)
            (global $top (mut i32) (i32.const 65536))
            {}
            (func $trap unreachable)
            (func $loop (loop $again (br $again)))
            (func (export \"cabi_realloc\") (param i32 i32 i32 i32) (result i32)
                {}
                (global.set $top (i32.and (i32.add (global.get $top) (i32.const 15)) (i32.const -16)))
                global.get $top
                (global.set $top (i32.add (global.get $top) (local.get 3))))
            (func (export \"handle\") (param i32) (result i32) {}))",
        if case.name == LARGE { 4_000 } else { 4 },
        case.fields,
        if lies { "(return (global.get $lie))" } else { "" },
        case.body
    );
    let mut bytes = wat::parse_str(text).unwrap();
    let manifest = format!(
        "name = \"{0}\"\nversion = \"1\"\nevents = [\"hand.{0}\"]\n[limits]\nmemory_mib = 16\ncpu_ms = 300\n",
        case.name
    );
    bytes.extend(custom_section(MANIFEST, manifest.as_bytes()));
    bytes.extend(custom_section(VERSION, b"1.0"));
    bytes.extend(custom_section(&contract.0, contract.1));
    bytes
}

#[tokio::test]
async fn no_module_however_it_lies_is_more_than_its_own_fault() {
    let folder = tempfile::tempdir().unwrap();
    let guest = std::fs::read(crate::guests().join("guests.wasm")).unwrap();
    std::fs::write(folder.path().join("guests.wasm"), &guest).unwrap();
    let contract = section(&guest, |name| name.starts_with("component-type")).unwrap();
    for case in CASES {
        std::fs::write(folder.path().join(format!("{}.wasm", case.name)), module(case, &contract)).unwrap();
    }
    let host = Setup::new().unwrap().plugins(folder.path()).more("[retry]\nattempts = 1").start().await.unwrap();
    assert_eq!(host.api("plugins").await.unwrap().as_array().unwrap().len(), CASES.len() + 1, "{}", host.log());
    let mut before = 0;
    for round in 0..3 {
        for case in CASES {
            let id = host.accepted(&format!("event=hand.{}&round={round}", case.name)).await.unwrap();
            let path = host.settled(&id).await.unwrap();
            let attempt = &path["deliveries"][0]["attempts"][0];
            assert_eq!(
                (attempt["outcome"].as_str(), attempt["code"].as_str()),
                (Some("failed"), Some(case.code)),
                "{path}"
            );
            assert!(attempt["reason"].as_str().unwrap().contains(case.words), "{path}");
        }
        let well = host.accepted(&format!("event=test.sin&sin=none&round={round}")).await.unwrap();
        assert_eq!(host.settled(&well).await.unwrap()["deliveries"][0]["state"], "done");
        if round == 0 {
            before = host.memory("VmRSS").unwrap() >> 10;
        }
    }
    let after = host.memory("VmRSS").unwrap() >> 10;
    assert!(after < before + 24, "the host's memory grew from {before} to {after} MiB");
}
