//! What `wit-bindgen` makes of the contract. Nothing here is for a plugin's author: the rooms beside it wrap it.
#![expect(unsafe_code, reason = "the component model's calling convention is raw memory")]
#![expect(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::allow_attributes,
    reason = "generated code; the contract file holds the documentation"
)]

wit_bindgen::generate!({
    path: "wit",
    world: "plugin",
    pub_export_macro: true,
    export_macro_name: "export_bindings",
    default_bindings_module: "salesman_plugin_sdk::__private::bindings",
});
