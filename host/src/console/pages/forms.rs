//! Forms: each checks the session's word, does what the API does, and goes back to its page.

use axum::Router;
use axum::body::Bytes;
use axum::extract::{FromRequest, Path, Request, State};
use axum::http::request::Parts;
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::post;

use super::confirm;
use super::frame::{Asked, Frame, Seen};
use super::shown::{AskedEvents, AskedLetters};
use super::{Refused, login_form, own_page, problem_page};
use crate::console::access::Operator;
use crate::console::vouch::Said;
use crate::console::{Console, Problem, api};
use crate::journal::{DeliveryId, LetterFilter, Resolution};

pub(super) fn routes() -> Router<Console> {
    Router::new()
        .route("/console/deliveries/{id}/{wish}", post(delivery))
        .route("/console/events/replay", post(replay_all))
        .route("/console/events/{id}/replay", post(replay))
        .route("/console/dead/some", post(dead_some))
        .route("/console/dead/all", post(dead_all))
        .route("/console/jobs/{id}/stop", post(stop))
        .route("/console/plugins/{name}/{wish}", post(plugin))
        .route("/console/restore/go-on", post(go_on))
}

/// A form that may be acted on.
pub(super) struct Form {
    pub(super) frame: Frame,
    pub(super) asked: Asked,
    who: Operator,
}

/// Only a form that bears its session's word is one.
impl<S: Send + Sync> FromRequest<S> for Form {
    type Rejection = Refused;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refused> {
        let (parts, body) = request.into_parts();
        let frame = Frame::outside(&Seen::of(&parts));
        let body = Bytes::from_request(Request::from_parts(parts, body), state).await.unwrap_or_default();
        let asked = Asked::of(std::str::from_utf8(&body).ok());
        let word = asked.get("csrf");
        match frame.who.clone() {
            Some(who) if !who.csrf.is_empty() && who.csrf == word => Ok(Self { frame, asked, who }),
            _ => {
                let words = "the form is not of this session: go back, load the page again, and send it again";
                Err(frame.refuse()(Problem::new(StatusCode::FORBIDDEN, "console.form", words)))
            }
        }
    }
}

impl Form {
    /// Goes back to the page, which tells that it was done, or shows why it was not.
    fn answer(&self, done: Result<Option<usize>, Problem>) -> Response {
        match done {
            Ok(changed) => {
                let next = Some(self.asked.get("next")).filter(|next| own_page(next)).unwrap_or("/console");
                let told = changed.map_or_else(|| "done".to_owned(), |changed| changed.to_string());
                let mark = if next.contains('?') { '&' } else { '?' };
                Redirect::to(&format!("{next}{mark}told={told}")).into_response()
            }
            Err(problem) => problem_page(&self.frame, &problem),
        }
    }

    /// Whether the sender has seen how many things are meant, and which.
    fn is_confirmed(&self) -> bool {
        self.asked.get("confirmed") == "1" && self.number("before").is_some()
    }

    fn number(&self, name: &str) -> Option<i64> {
        self.asked.get(name).parse().ok()
    }

    /// A question that comes first, or [`Self::answer`].
    fn asked_or_done(&self, done: Result<Step, Problem>) -> Response {
        match done {
            Ok(Step::Asks(question)) => question,
            Ok(Step::Done(changed)) => self.answer(Ok(changed)),
            Err(problem) => self.answer(Err(problem)),
        }
    }

    fn pace(&self) -> Result<Option<f64>, Problem> {
        match self.asked.get("pace") {
            "" => Ok(None),
            text => {
                let pace = text.replace(',', ".").parse();
                pace.map(Some).map_err(|_| Problem::bad_filter(format!("`{text}` is no number")))
            }
        }
    }

    /// The number of a record that was added.
    fn record(&self) -> Result<Option<u64>, Problem> {
        match self.asked.get("record") {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_| Problem::bad_filter(format!("`{text}` is no record's number"))),
        }
    }

    fn resolution(&self) -> Result<Resolution, Problem> {
        match self.asked.get("do") {
            "retry" => Ok(Resolution::Retry),
            "drop" => Ok(Resolution::Drop),
            _ => Err(Problem::bad_filter("the form says neither `retry` nor `drop`")),
        }
    }
}

async fn delivery(State(console): State<Console>, Path((id, wish)): Path<(String, String)>, form: Form) -> Response {
    let done = async {
        let number = api::delivery_id(&id)?;
        let write = Some(form.asked.get("write")).filter(|write| !write.is_empty());
        let resolution = match wish.as_str() {
            "retry" => Resolution::Retry,
            "drop" => Resolution::Drop,
            "done" => {
                let record = form.record()?;
                return console.vouch(&form.who, number, write, Said::Done(record)).await.map(|_| None);
            }
            "send" => return console.vouch(&form.who, number, write, Said::Send).await.map(|_| None),
            _ => return Err(Problem::not_found("there is no such form")),
        };
        console.decide(&form.who, number, resolution).await.map(|()| None)
    };
    form.answer(done.await)
}

async fn replay(State(console): State<Console>, Path(id): Path<String>, form: Form) -> Response {
    let done = async {
        let plugin = api::named(form.asked.get("plugin").to_owned())?;
        console.replay(&form.who, api::event_id(&id)?, &plugin).await.map(|_| None)
    };
    form.answer(done.await)
}

async fn replay_all(State(console): State<Console>, form: Form) -> Response {
    let done = async {
        let plugin = api::named(form.asked.get("plugin").to_owned())?;
        let asked = AskedEvents { plugin: String::new(), ..AskedEvents::of(&form.asked) };
        let mut filter = asked.query(&form.frame)?.filter()?;
        filter.plugin = filter.outcome.map(|_| plugin.clone());
        let pace = form.pace()?;
        if !form.is_confirmed() {
            filter = console.up_to_now(filter);
            let until = filter.until.unwrap_or_default();
            let (count, events) = console.count_events(filter, api::FIRST).await?;
            let hidden = [asked.pairs(), vec![("plugin", plugin.as_str()), ("pace", form.asked.get("pace"))]].concat();
            return Ok(Some(confirm::events(&form, &plugin, count, events, &hidden, until)));
        }
        filter.until = form.number("before").or(filter.until);
        console.replay_all(&form.who, filter, plugin, pace).await.map(|_| None)
    };
    match done.await {
        Ok(Some(question)) => question,
        // Where its progress is.
        Ok(None) => Redirect::to("/console/dead?told=done").into_response(),
        Err(problem) => problem_page(&form.frame, &problem),
    }
}

/// What a form that changes much comes to.
enum Step {
    /// A question first.
    Asks(Response),
    /// It is done; how much of it, where that is known.
    Done(Option<usize>),
}

async fn dead_some(State(console): State<Console>, form: Form) -> Response {
    let done = async {
        let chosen = form.asked.all("delivery").map(|id| api::delivery_id(id).map(DeliveryId));
        let chosen: Vec<DeliveryId> = chosen.collect::<Result<_, _>>()?;
        let resolution = form.resolution()?;
        if resolution == Resolution::Drop && chosen.len() > 1 && !form.is_confirmed() {
            return Ok(Step::Asks(confirm::these(&form, &console, &chosen).await?));
        }
        let meant = match form.number("before") {
            Some(before) => dead_before(&console, chosen, before).await?,
            None => chosen,
        };
        console.resolve_these(&form.who, meant, resolution).await.map(|changed| Step::Done(Some(changed)))
    };
    form.asked_or_done(done.await)
}

/// Those of the letters that were given up before a time: one that was retried and died anew meanwhile is another.
async fn dead_before(console: &Console, chosen: Vec<DeliveryId>, before: i64) -> Result<Vec<DeliveryId>, Problem> {
    let journal = console.journal.clone();
    let meant = crate::console::blocking(move || {
        let mut meant = Vec::new();
        for DeliveryId(number) in chosen {
            let filter = LetterFilter { until: Some(before), up_to: Some(number), ..LetterFilter::default() };
            if !journal.letters(&filter, number.saturating_sub(1), 1)?.is_empty() {
                meant.push(DeliveryId(number));
            }
        }
        Ok(meant)
    })
    .await?;
    Ok(meant)
}

async fn dead_all(State(console): State<Console>, form: Form) -> Response {
    let done = async {
        let asked = AskedLetters::of(&form.asked);
        let mut filter: LetterFilter = asked.filter(&form.frame)?;
        let (resolution, pace) = (form.resolution()?, form.pace()?);
        if resolution == Resolution::Drop {
            if !form.is_confirmed() {
                let counted = api::count_of(&console, filter, api::FIRST).await?;
                let hidden = [asked.pairs(), vec![("pace", form.asked.get("pace"))]].concat();
                return Ok(Step::Asks(confirm::letters(&form, &counted, &hidden)));
            }
            filter.until = form.number("before").or(filter.until);
            filter.up_to = form.number("up_to");
        }
        console.resolve_all(&form.who, filter, resolution, pace).await.map(|_| Step::Done(None))
    };
    form.asked_or_done(done.await)
}

async fn go_on(State(console): State<Console>, form: Form) -> Response {
    let done = async { console.go_on(&form.who).await.map(|()| None) };
    form.answer(done.await)
}

async fn stop(State(console): State<Console>, Path(id): Path<u64>, form: Form) -> Response {
    let done = async { console.stop_job(&form.who, id).await.map(|()| None) };
    form.answer(done.await)
}

async fn plugin(State(console): State<Console>, Path((name, wish)): Path<(String, String)>, form: Form) -> Response {
    let done = async {
        let name = api::named(name)?;
        let who = &form.who;
        match wish.as_str() {
            "pause" => console.hold(who, &name, true).await?,
            "resume" => console.hold(who, &name, false).await?,
            "grant" => {
                let lines = form.asked.get("http").split_whitespace().map(str::to_owned).collect();
                console.grant(who, &name, Some((form.asked.get("hash").to_owned(), lines))).await?;
            }
            "revoke" => console.grant(who, &name, None).await?,
            "drop" => return console.abandon(who, &name).await.map(Some),
            "rollback" => {
                let to = Some(form.asked.get("to").to_owned()).filter(|to| !to.is_empty());
                console.roll_back(who, &name, to, form.asked.get("newest") == "1").await?;
            }
            _ => return Err(Problem::not_found("there is no such form")),
        }
        Ok(None)
    };
    form.answer(done.await)
}

pub(super) async fn login(State(console): State<Console>, seen: Seen, parts: Parts, body: Bytes) -> Response {
    let frame = Frame::outside(&seen);
    let asked = Asked::of(std::str::from_utf8(&body).ok());
    if !console.access.is_same_origin(&parts.headers) {
        let words = "a page of another address asks: use this host's own, or set `console.url`";
        return problem_page(&frame, &Problem::new(StatusCode::FORBIDDEN, "console.origin", words));
    }
    let (name, next, from) = (asked.get("name"), asked.get("next"), console.access.sender(&parts));
    // A password may begin or end with a space.
    let password = asked.all("password").next().unwrap_or_default();
    let w = frame.words();
    match console.access.login(from, name, password).await {
        Ok(Some(cookie)) => {
            if let Err(error) = console.journal.audit(name, "login", &from.to_string(), "").await {
                return problem_page(&frame, &error.into());
            }
            let next = if own_page(next) { next } else { "/console" };
            ([(header::SET_COOKIE, cookie)], Redirect::to(next)).into_response()
        }
        Ok(None) => {
            console.login_failed(name, from);
            let mut answer = login_form(&frame, true, next, Some(w.wrong_password.to_owned()));
            *answer.status_mut() = StatusCode::UNAUTHORIZED;
            answer
        }
        Err(seconds) => {
            console.login_failed(name, from);
            let mut answer = login_form(&frame, true, next, Some(format!("{} {seconds}.", w.wait_to_log_in)));
            *answer.status_mut() = StatusCode::TOO_MANY_REQUESTS;
            answer.headers_mut().insert(header::RETRY_AFTER, seconds.into());
            answer
        }
    }
}

/// Whoever has a link's word is in, once. `HEAD` asks what would come, and uses nothing up.
pub(super) async fn enter(State(console): State<Console>, method: Method, seen: Seen, parts: Parts) -> Response {
    let asked = Asked::of(parts.uri.query());
    let entered = if method == Method::GET { console.access.enter(asked.get("word")) } else { None };
    let Some((cookie, who)) = entered else {
        let words = "this link was used, or is too old: `salesman-host console` prints another";
        return problem_page(&Frame::outside(&seen), &Problem::new(StatusCode::FORBIDDEN, "console.link", words));
    };
    let from = console.access.sender(&parts);
    match console.journal.audit(who, "login", &from.to_string(), "").await {
        Ok(()) => ([(header::SET_COOKIE, cookie)], Redirect::to("/console")).into_response(),
        Err(error) => problem_page(&Frame::outside(&seen), &error.into()),
    }
}

pub(super) async fn logout(State(console): State<Console>, parts: Parts) -> Response {
    if !console.access.is_same_origin(&parts.headers) {
        return StatusCode::FORBIDDEN.into_response();
    }
    let cookie = console.access.logout(&parts.headers);
    ([(header::SET_COOKIE, cookie)], Redirect::to("/console/login")).into_response()
}
