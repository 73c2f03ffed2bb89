//! What one event costs the CRM's user under a real PHP: the generated file against the stock way, in one run.
//!
//! The stock way is a form post to the CRM's own `developer/webhooks.php`. What that does in the CRM (its database, its own
//! requests) is left out here: an empty script answers in its place, so the stock way is shown faster than it is.

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use integration_tests::host::{Setup, TOKEN};
use integration_tests::php::{Crm, options};
use integration_tests::wait_until;
use salesman_host::events_php::{self, Options};
use serde_json::{Map, Value, json};

const EVENTS: usize = 200;

const STOCK: &str = r#"<?php
event::register('client.edit', function ($args = []) {
    $args['event'] = 'client.edit';
    $call = curl_init('@@RELAY@@');
    curl_setopt_array($call, [CURLOPT_POST => true, CURLOPT_POSTFIELDS => http_build_query($args), CURLOPT_RETURNTRANSFER => true,
        CURLOPT_SSL_VERIFYPEER => false, CURLOPT_TIMEOUT => 5]);
    curl_exec($call);
    curl_close($call);
});
"#;

pub(crate) async fn measure() -> anyhow::Result<Value> {
    let php = Arc::new(xtask::php::ensure(&xtask::root())?);
    let host = Setup::new()?.start().await?;
    let options = options(format!("{}/events", host.base()), TOKEN);
    let up = Crm::new(&php, &events_php::file(&options).map_err(anyhow::Error::msg)?)?;

    // PHP's own server plays the CRM's.
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let site = tempfile::tempdir()?;
    std::fs::create_dir(site.path().join("developer"))?;
    std::fs::write(site.path().join("developer/webhooks.php"), "<?php echo 'ok';")?;
    let mut server = php.command();
    server.arg("-S").arg(format!("127.0.0.1:{port}")).arg("-t").arg(site.path());
    let mut server =
        server.stdout(Stdio::null()).stderr(Stdio::null()).spawn().context("failed to start PHP's server")?;
    wait_until("PHP's server", Duration::from_secs(10), async || {
        Ok(tokio::net::TcpStream::connect(("127.0.0.1", port)).await.ok().map(drop))
    })
    .await?;
    let stock = STOCK.replace("@@RELAY@@", &format!("http://127.0.0.1:{port}/developer/webhooks.php"));
    let stock = Crm::new(&php, &stock)?;

    // A port that nobody listens on.
    let dead = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let down = Options { url: format!("http://{dead}/events"), ..options };
    let down = Crm::new(&php, &events_php::file(&down).map_err(anyhow::Error::msg)?)?;

    let events: Value =
        (0..EVENTS).map(|n| json!(["client.edit", { "clid": 1, "autor": 1, "user": 1, "n": n }])).collect();
    let (mut stock_times, mut up_times, mut first_up, mut first_down, mut down_times) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..5 {
        stock_times.extend(stock.page(&events).await?);
        let mut times = up.page(&events).await?;
        first_up.push(times.remove(0));
        up_times.extend(times);
        down.forget_failure();
        let mut times = down.page(&events).await?;
        first_down.push(times.remove(0));
        down_times.extend(times);
    }
    server.kill()?;
    server.wait()?;
    let stock = median(&mut stock_times);
    let up = median(&mut up_times);
    let mut figures = Map::new();
    for (name, value) in [
        ("stock_relay_without_the_crm", stock),
        ("generated_host_up_first_of_a_page", median(&mut first_up)),
        ("generated_host_up_next", up),
        ("generated_host_down_first_of_a_page", median(&mut first_down)),
        ("generated_host_down_next", median(&mut down_times)),
    ] {
        figures.insert(format!("{name}_ms"), json!(super::round(value)));
    }
    figures.insert("ratio_to_stock_without_the_crm".to_owned(), json!(super::round(up / stock)));
    // Measured at the real CRM: 15 to 17 ms an event more than without one.
    figures.insert("ratio_to_stock_as_measured".to_owned(), json!(super::round(up / 15.0)));
    Ok(Value::Object(figures))
}

fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or_default()
}
