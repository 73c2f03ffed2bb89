//! What `wit-bindgen` makes of the contract. Nothing here is for a plugin's author: the rooms beside it wrap it.

wit_bindgen::generate!({
    path: "wit",
    world: "plugin",
    pub_export_macro: true,
    export_macro_name: "export_bindings",
    default_bindings_module: "salesman_plugin_sdk::__private::bindings",
});
