//! What the pages say, in English and Russian. A word that one language lacks does not compile.

use axum::http::{HeaderMap, header};

use super::access::cookie;
use super::jobs::JobState;
use crate::dispatcher::gate::Mode;
use crate::journal::{DeliveryState, Wanted};

/// The cookie that holds the choice.
pub(super) const COOKIE: &str = "salesman_language";

/// A language of the pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Language {
    English,
    Russian,
}

impl Language {
    pub(super) fn parse(code: &str) -> Option<Self> {
        [Self::English, Self::Russian].into_iter().find(|language| language.code() == code)
    }

    pub(super) fn code(self) -> &'static str {
        match self {
            Self::English => "en",
            Self::Russian => "ru",
        }
    }

    pub(super) fn own_name(self) -> &'static str {
        match self {
            Self::English => "English",
            Self::Russian => "Русский",
        }
    }

    pub(super) fn other(self) -> Self {
        match self {
            Self::English => Self::Russian,
            Self::Russian => Self::English,
        }
    }

    /// What was chosen before, or what the browser prefers.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        if let Some(chosen) = cookie(headers, COOKIE).and_then(Self::parse) {
            return chosen;
        }
        let wanted = headers.get(header::ACCEPT_LANGUAGE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let mut best = (0.0, Self::English);
        for part in wanted.split(',') {
            let (tag, weight) = part.split_once(';').unwrap_or((part, "q=1"));
            let code = tag.trim().split('-').next().unwrap_or_default().to_ascii_lowercase();
            let weight: f32 = weight.trim().strip_prefix("q=").and_then(|text| text.parse().ok()).unwrap_or(0.0);
            if let Some(language) = Self::parse(&code)
                && weight > best.0
            {
                best = (weight, language);
            }
        }
        best.1
    }

    pub(super) fn words(self) -> &'static Words {
        match self {
            Self::English => &ENGLISH,
            Self::Russian => &RUSSIAN,
        }
    }
}

macro_rules! words {
    ($($name:ident: $english:literal, $russian:literal;)*) => {
        /// Every word of the pages.
        pub(super) struct Words {
            russian: bool,
            $(pub(super) $name: &'static str,)*
        }
        static ENGLISH: Words = Words { russian: false, $($name: $english,)* };
        static RUSSIAN: Words = Words { russian: true, $($name: $russian,)* };
    };
}

words! {
    account: "CRM", "CRM";
    actor: "Employee's number", "Номер сотрудника";
    all_of_filter: "Decide about all that this filter finds…", "Решить обо всех, что найдены этим фильтром…";
    answered: "Answered", "Ответ";
    answers: "answers", "отвечает";
    asked: "Asks for", "Запрашивает";
    asks_nothing: "It asks for nothing.", "Ничего не запрашивает.";
    at_once: "At once", "Одновременно";
    attempt: "Attempt", "Попытка";
    back: "Back", "Назад";
    call_bad: "failed", "ошибка";
    call_good: "good", "успех";
    calls: "calls", "вызовов";
    causes: "What caused what", "Что чем вызвано";
    changed: "changed", "изменено";
    choose: "Choose", "Выбрать";
    choose_addresses: "Addresses that it may send to, one a line", "Адреса, куда ему можно обращаться, по одному в строке";
    count: "Letters", "Сколько";
    counting: "counting…", "подсчёт…";
    dead_letters: "Dead letters", "Недоставленные";
    deliveries: "Deliveries", "Доставки";
    delivery: "Delivery", "Доставка";
    details: "Details", "Подробности";
    drop_question: "Give these dead letters up for good?", "Отказаться от этих недоставленных насовсем?";
    go_on: "Let it go on", "Продолжить работу";
    how_many: "How many", "Сколько";
    just_these: "Just these are meant: what comes meanwhile is not.", "Именно эти: то, что появится тем временем, не затрагивается.";
    no_go_back: "No, go back", "Нет, назад";
    nothing_meant: "Nothing fits any more.", "Больше ничего не подходит.";
    replay_question: "Have these events handled once more?", "Обработать эти события ещё раз?";
    restored_means: "Events are kept, and nothing runs. What these write is looked for in the CRM before it is done again. What was open:", "События сохраняются, плагины не работают. Их записи хост сначала ищет в CRM. Что было не закончено:";
    restored_open: "Deliveries that were open then:", "Незаконченных доставок было:";
    restored_waits: "The journal was restored from a copy made", "Журнал восстановлен из копии, сделанной";
    the_first_of_them: "The first of them", "Первые из них";
    compiling: "is being compiled", "компилируется";
    waits_for_approval: "waits for approval", "ждёт разрешения";
    any_outcome: "any", "любой";
    with_outcome: "Outcome", "Итог";
    with_plugin: "Delivered to", "Кому";
    did_not_work: "That did not work", "Не получилось";
    done_is: "Done.", "Готово.";
    drop_chosen: "Give up the chosen", "Отказаться от выбранных";
    duplicate: "duplicate", "повтор";
    error: "Error", "Ошибка";
    event: "Event", "Событие";
    events: "Events", "События";
    events_per: "Events", "События";
    everything: "Everything", "Всё";
    failed: "Failed attempts", "Неудачных попыток";
    failures: "Recent failures", "Недавние сбои";
    fields: "Fields", "Поля";
    file: "File", "Файл";
    give_up: "Give up…", "Отказаться…";
    give_up_really: "Give up for good", "Отказаться насовсем";
    good: "Went well", "Успешно";
    grant: "Grant…", "Разрешить…";
    grant_means: "It gets everything that is listed above.", "Плагин получит всё, что перечислено выше.";
    grant_really: "Grant all of it", "Разрешить всё это";
    granted: "Granted", "Разрешено";
    groups: "By plugin and error", "По плагинам и ошибкам";
    hour: "1 hour", "1 час";
    in_order: "in order of the record's events", "по порядку событий записи";
    known: "the record", "запись";
    known_means: "known before: not a new one", "уже была известна: не новая";
    day: "24 hours", "24 часа";
    week: "7 days", "7 дней";
    last_hour: "in the last hour", "за последний час";
    last_one: "The last one", "Последнее";
    let_serve: "Let it serve", "Включить";
    letters: "One by one", "По одному";
    plugin_memory: "Memory of running plugins", "Память работающих плагинов";
    kept_state: "state", "память плагина";
    limits: "Limits", "Пределы";
    lines_dropped: "Lines that did not fit", "Строк не поместилось";
    link_lets_in: "On the host's machine this command prints a link that opens these pages once, without a password:", "На компьютере хоста эта команда печатает ссылку, которая один раз открывает эти страницы без пароля:";
    live: "Live.", "Обновляется само.";
    log: "log", "журнал";
    log_in: "Log in", "Вход";
    log_out: "Log out", "Выйти";
    looked_back_to: "Nothing more was found back to", "Дальше ничего не найдено вплоть до";
    memory: "memory", "память";
    more: "More", "Ещё";
    ms: "ms", "мс";
    name: "Name", "Имя";
    navigation: "Pages", "Разделы";
    newest_serves: "Serve the version in the plugin folder", "Вернуть версию из папки плагинов";
    no: "no", "нет";
    no_address: "no address", "нет адреса";
    no_deliveries: "No plugin wanted it.", "Ни одному плагину оно не нужно.";
    no_events: "No such events.", "Таких событий нет.";
    no_failures: "Nothing failed.", "Сбоев не было.";
    no_letters: "None.", "Нет.";
    no_plugins: "No plugin is loaded.", "Плагины не загружены.";
    no_users: "Nobody can log in: the configuration has no users yet.", "Войти пока некому: в настройках нет пользователей.";
    not_routed: "It has only just come.", "Только что пришло.";
    nothing_yet: "Nothing yet.", "Пока ничего.";
    now_state: "State", "Состояние";
    older: "Older", "Раньше";
    open_deliveries: "Waiting and running", "Ждут и выполняются";
    operators_log: "Operators' log", "Журнал действий";
    outcome: "Outcome", "Итог";
    overview: "Overview", "Обзор";
    pace: "How many a second (empty: as fast as possible)", "Сколько в секунду (пусто: как можно быстрее)";
    password: "Password", "Пароль";
    pause: "Pause", "Приостановить";
    per_second: "a second", "в секунду";
    permissions: "Permissions", "Разрешения";
    plugin: "Plugin", "Плагин";
    plugins: "Plugins", "Плагины";
    processor: "processor", "процессор";
    progress: "Progress", "Ход";
    reason: "Reason", "Причина";
    record: "Record", "Запись";
    replay: "Replay", "Повторить";
    replay_means: "The plugin handles the event once more, and what it writes is written again.", "Плагин обработает событие ещё раз, и всё, что он пишет, будет записано снова.";
    replay_range_means: "Every event that this search finds is handled once more, the oldest first.", "Каждое событие, найденное этим поиском, будет обработано ещё раз, начиная с самого старого.";
    replay_these: "Replay these events…", "Повторить эти события…";
    replay_to: "Replay to", "Повторить для";
    replayed: "replay", "повторно";
    reply: "reply", "ответ";
    resume: "Resume", "Продолжить";
    revoke: "Take back all grants", "Отозвать все разрешения";
    revoke_means: "Its calls are refused from then on.", "Его вызовы будут отклоняться.";
    run_again: "Run again", "Выполнить снова";
    run_chosen: "Run the chosen again", "Выполнить выбранные снова";
    same_login: "another program under the same login", "другая программа под тем же логином";
    search: "Search", "Найти";
    sent: "Sent", "Отправлено";
    serves: "serves", "работает";
    since: "From", "С";
    size: "Size", "Размер";
    skip: "Skip to the content", "К содержанию";
    stop: "Stop", "Остановить";
    stopped_crm: "The CRM can't be reached; what needs it waits:", "CRM не отвечает; то, чему она нужна, ждёт:";
    stopped_plugin: "Paused after failures in a row:", "Приостановлен после сбоев подряд:";
    text: "Text in the fields", "Текст в полях";
    the_first: "the first one", "первое";
    time: "Time", "Время";
    times_are_in: "Times are in", "Часовой пояс:";
    to_done: "Time until done", "Время до выполнения";
    average: "average", "в среднем";
    slowest: "slowest", "дольше всего";
    to_what: "What to", "С чем";
    uncertain: "Uncertain writes", "Неясные записи в CRM";
    in_doubt: "A write in doubt", "Неясная запись";
    in_doubt_means: "nobody knows whether it was done. Look into the CRM, then say what is to be done.", "неизвестно, выполнено ли это. Посмотрите в CRM и скажите, что делать.";
    was_done: "It was done…", "Выполнено…";
    was_done_means: "It is not sent again: the plugin is run again, and is told that it was done.", "Повторно ничего не отправится: плагин запустится ещё раз и узнает, что это выполнено.";
    was_done_really: "It was done", "Да, выполнено";
    added_record: "Number of the record that was added", "Номер добавленной записи";
    send_again: "Send it all the same…", "Всё равно отправить…";
    send_again_means: "If it was done, it is done twice.", "Если это уже было выполнено, получится дважды.";
    send_again_really: "Send it", "Отправить";
    unreachable: "can't be reached", "не отвечает";
    unrouted: "Not routed yet", "Ещё не распределены";
    until: "Before", "До";
    users_are_made: "A user is made by a section of the configuration, with a password's hash that the other command prints:", "Пользователь — это раздел в настройках; хеш пароля печатает другая команда:";
    version: "Version", "Версия";
    versions: "Versions", "Версии";
    via: "Came as", "Пришло как";
    viewer: "may look", "только просмотр";
    wait_to_log_in: "Too many wrong passwords. Seconds to wait:", "Слишком много неверных паролей. Подождите, секунд:";
    wants_events: "Wants", "Принимает";
    what: "What", "Что";
    what_happened: "What happened", "Что происходило";
    who: "Who", "Кто";
    whole_time: "whole time", "всё время";
    wrong_password: "Name or password is wrong.", "Неверное имя или пароль.";
    wrote: "Wrote into the CRM", "Записано в CRM";
    yes: "yes", "да";
    most_word: "at most", "не больше";
    total_word: "in all", "всего";
    this_event: "this event", "это событие";
    not_serving: "not served", "не работает";
    missing: "missing: its events are kept", "пропал: его события хранятся";
    gone_for_good: "It is gone for good…", "Его больше не будет…";
    gone_means: "No event is kept for it any more, and what waits for it is given up.", "События для него больше не хранятся, а те, что ждут, не будут доставлены.";
    flowing: "works", "работает";
    paused: "paused after failures", "приостановлен после сбоев";
    probing: "being probed", "проверяется";
    waiting_for_crm: "waits for the CRM", "ждёт CRM";
    held: "paused by an operator", "приостановлен оператором";
}

impl Words {
    pub(super) fn state(&self, state: &DeliveryState) -> &'static str {
        let (english, russian) = match state {
            DeliveryState::Ready => ("waits", "ждёт"),
            DeliveryState::Behind => ("waits its turn", "ждёт очереди"),
            DeliveryState::Running => ("runs", "выполняется"),
            DeliveryState::Done => ("done", "выполнено"),
            DeliveryState::Skipped => ("skipped", "пропущено"),
            DeliveryState::Dead => ("dead letter", "не доставлено"),
            DeliveryState::Dropped => ("given up", "отказано"),
        };
        if self.russian { russian } else { english }
    }

    pub(super) fn mode(&self, mode: Mode) -> &'static str {
        match mode {
            Mode::Flowing => self.flowing,
            Mode::Paused { .. } => self.paused,
            Mode::Probing => self.probing,
            Mode::WaitingForCrm => self.waiting_for_crm,
            Mode::Held => self.held,
        }
    }

    pub(super) fn job_state(&self, state: &JobState) -> &'static str {
        let (english, russian) = match state {
            JobState::Running => ("goes on", "выполняется"),
            JobState::Done => ("done", "выполнено"),
            JobState::Stopped => ("stopped", "остановлено"),
            JobState::Failed => ("failed", "ошибка"),
        };
        if self.russian { russian } else { english }
    }

    pub(super) fn outcome_word<'a>(&self, outcome: &'a str) -> &'a str {
        if !self.russian {
            return outcome;
        }
        match outcome {
            "done" => "выполнено",
            "skipped" => "пропущено",
            "retry" => "просит повторить",
            "rejected" => "отклонено",
            "failed" => "ошибка",
            "interrupted" => "прервана",
            "conflict" => "состояние изменилось",
            other => other,
        }
    }

    pub(super) fn action<'a>(&self, action: &'a str) -> &'a str {
        if !self.russian {
            return action;
        }
        match action {
            "dead.retry" => "недоставленные: выполнить снова",
            "dead.drop" => "недоставленные: отказаться",
            "delivery.retry" => "доставка: выполнить снова",
            "delivery.drop" => "доставка: отказаться",
            "event.replay" => "событие: повторить",
            "event.send" => "событие: отправить",
            "event.unmasked" => "событие: показать скрытое",
            "job.stop" => "остановить",
            "login" => "вход",
            "logout" => "выход",
            "plugin.grant" => "плагин: разрешить",
            "plugin.pause" => "плагин: приостановить",
            "plugin.resume" => "плагин: продолжить",
            "plugin.revoke" => "плагин: отозвать разрешения",
            "plugin.rollback" => "плагин: сменить версию",
            "delivery.done" => "запись: выполнена",
            "delivery.send" => "запись: отправить",
            "queue.drop" => "очередь: отказаться",
            "record.forget" => "запись: забыть",
            "record.erased" => "запись: стёрта",
            other => other,
        }
    }

    /// How a delivery stands, as it is looked for.
    pub(super) fn wanted(&self, wanted: &Wanted) -> &'static str {
        match (*wanted, self.russian) {
            (Wanted::Failed, false) => "failed",
            (Wanted::Failed, true) => "с ошибкой",
            (Wanted::Waiting, false) => "waiting",
            (Wanted::Waiting, true) => "ожидает",
            (Wanted::Dead, _) => self.state(&DeliveryState::Dead),
            (Wanted::Running, _) => self.state(&DeliveryState::Running),
            (Wanted::Done, _) => self.state(&DeliveryState::Done),
            (Wanted::Skipped, _) => self.state(&DeliveryState::Skipped),
            (Wanted::Dropped, _) => self.state(&DeliveryState::Dropped),
        }
    }

    /// A refusal's sentence; those that name things stay as they are.
    pub(super) fn problem<'a>(&self, code: &str, message: &'a str) -> &'a str {
        if !self.russian {
            return message;
        }
        match code {
            "console.viewer" => "ваша роль — только просмотр: менять может `admin`",
            "console.not_found" => "такого здесь нет",
            "console.bad_id" => "это не похоже на номер или имя",
            "console.busy" => {
                "слишком много всего сразу: подождите; если идут большие изменения, остановите одно из них"
            }
            "console.too_large" => "слишком длинное содержимое",
            "console.incomplete" => "содержимое не пришло вовремя: отправьте ещё раз",
            "console.store" => "хранилище сейчас не читается или не пишется: причина в журнале хоста",
            "console.origin" => "запрос пришёл с чужой страницы; если перед хостом стоит прокси, задайте `console.url`",
            "console.form" => "страница устарела: вернитесь, обновите её и попробуйте снова",
            "console.link" => "ссылка уже использована или устарела: `salesman-host console` напечатает новую",
            _ => message,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_language_is_the_one_that_was_chosen_or_else_the_browsers() {
        let of = |accept: &str, chosen: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT_LANGUAGE, accept.parse().unwrap());
            headers.insert(header::COOKIE, format!("{COOKIE}={chosen}").parse().unwrap());
            Language::of(&headers).code()
        };
        let cases = [
            ("ru-RU,ru;q=0.9,en;q=0.8", "", "ru"),
            ("en-US,en;q=0.9,ru;q=0.8", "", "en"),
            ("de,ru;q=0.5,en;q=0.3", "", "ru"),
            ("de", "", "en"),
            ("", "", "en"),
            ("ru;q=0", "", "en"),
            ("ru", "en", "en"),
            ("en", "ru", "ru"),
            ("en", "nonsense", "en"),
        ];
        for (accept, chosen, expected) in cases {
            assert_eq!(of(accept, chosen), expected, "{accept} {chosen}");
        }
    }
}
