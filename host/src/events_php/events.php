<?php
/*
 * SalesMan Plugin Host @@VERSION@@: файл developer/events.php для SalesMan CRM (PHP 7.2 и новее).
 * Передаёт события CRM программе salesman-host. Если она недоступна, событие ждёт в папке-очереди и уходит позже, по порядку.
 * Cron (от имени пользователя веб-сервера), раз в минуту:  php /путь/crm/developer/events.php --flush     Состояние: --status
 * Событие, которое не проходит (его отвергает прокси), после нескольких попыток откладывается; вернуть такие в очередь: --retry
 * Файл создан командой `salesman-host events-php` и содержит секрет (token): храните его как пароль.
 *
 * SalesMan Plugin Host @@VERSION@@: a developer/events.php for SalesMan CRM (PHP 7.2 or later).
 * Hands the CRM's events to salesman-host. When that can't be reached, an event waits in the spool folder and goes later, in order.
 * Cron (as the web server's user), every minute:  php /path/crm/developer/events.php --flush     State: --status
 * An event that can't go (a proxy refuses it) is set aside after some tries, and the others go on; put such back into the spool: --retry
 * Printed by `salesman-host events-php`; it holds a secret (the token): keep it as you would a password.
 */

try {
if (empty($GLOBALS['salesman_host_loaded'])) {
    $GLOBALS['salesman_host_loaded'] = true;

    function salesman_host_settings(): array {
        return [
            // Адрес программы. Лучше IP, чем имя: поиск имени может длиться дольше всех ограничений.
            // The host's address. Rather an IP than a name: looking up a name can outlast every time-out.
            'url' => '@@URL@@',
            'token' => '@@TOKEN@@',
            // Сколько миллисекунд страница CRM может ждать: соединение; всё вместе за один запрос пользователя.
            // How many milliseconds a page of the CRM may wait: for the connection; all together in one request of a user.
            'connect_ms' => @@CONNECT_MS@@,
            'total_ms' => @@TOTAL_MS@@,
            // Папка-очередь на локальном диске. '' = рядом с папкой CRM, если там можно писать и это вне сайта; иначе <crm>/cash/salesman-host-spool.
            // The spool, on a local disk. '' = beside the CRM's folder, if that can be written and is outside the site; else <crm>/cash/salesman-host-spool.
            'spool' => '@@SPOOL@@',
            'spool_files' => 200000,
            'spool_bytes' => 200 * 1024 * 1024,
            // Событие в очереди переживает и отключение питания: файл записан на диск до того, как встаёт в неё (PHP 8.1 и новее), пока хватает total_ms.
            // An event in the spool outlives a loss of power too: its file is on disk before it joins (PHP 8.1 or later), as long as total_ms lasts.
            // Зависший диск total_ms не ограничивает: PHP не может прервать запись на него. / total_ms does not bound a disk that hangs: PHP can't break off what it waits for.
            'spool_sync' => true,
            // Отвергнутые программой события (папка refused в очереди) не повторяются; при переполнении удаляются старые.
            // Events that the host refused (folder refused in the spool) are not sent again; the oldest make room.
            'refused_files' => 1000,
            'refused_bytes' => 20 * 1024 * 1024,
            // Событие, которое не проходит, хотя программа отвечает, откладывается после стольких попыток (папка aside в очереди).
            // An event that can't go although the host answers is set aside after so many tries (folder aside in the spool).
            'tries' => 3,
            'aside_files' => 10000,
            'aside_bytes' => 100 * 1024 * 1024,
            // После неудачи столько секунд никто не ждёт: события сразу идут в очередь.
            // For so many seconds after a failure nobody waits: events go to the spool at once.
            'down_seconds' => 5,
            // Штатная передача в developer/webhooks.php, чтобы работали строки «Webhooks» панели (без `ses`). Каждое событие - ещё один
            // запрос CRM к самой себе. Строки с адресом этой же программы удалите: событие придёт дважды. Адрес CRM постоянный: имя из запроса
            // выбирает посетитель. Без него передачи нет.
            // The stock relay to developer/webhooks.php, so that webhook rows of the panel work (without `ses`). Each event costs one more request
            // of the CRM to itself. Delete rows that lead to this same host: events would come twice. The CRM's address is fixed: the name in a
            // request is the visitor's choice. Without an address nothing is relayed.
            'relay' => @@RELAY@@,
            'crm_url' => '@@CRM_URL@@',
            'relay_ms' => 1000,
            // Их штатный файл в webhooks.php не передаёт. / The stock file does not relay these.
            'not_relayed' => ['deal.change.datum_plan', 'invoice.delete', 'task.remove', 'document.add'],
            'events' => [
                'client.add',
                'client.edit',
                'client.delete',
                'client.change.recv',
                'client.change.user',
                'client.import',
                'client.expressadd',
                'person.add',
                'person.edit',
                'person.delete',
                'person.change.user',
                'deal.add',
                'deal.edit',
                'deal.delete',
                'deal.change.user',
                'deal.change.step',
                'deal.change.datum_plan',
                'deal.close',
                'deal.import',
                'invoice.add',
                'invoice.edit',
                'invoice.doit',
                'invoice.undoit',
                'invoice.delete',
                'invoice.expressadd',
                'task.add',
                'task.edit',
                'task.doit',
                'task.remove',
                'history.add',
                'history.edit',
                'lead.add',
                'lead.setuser',
                'lead.do',
                'entry.add',
                'entry.status',
                'contract.add',
                'contract.edit',
                'contract.delete',
                'document.add',
                'akt.add',
                'akt.edit',
                'akt.delete',
                'email.send',
                'email.get',
                'budjet.add',
                'budjet.edit',
                'budjet.do',
                'budjet.undo',
                'budjet.move',
            ],
        ];
    }

    // Есть ли такая функция: disable_functions отнимает любые. Чего нет, обходим; о том, без чего нельзя, говорим.
    // Whether PHP has this function: disable_functions takes any away. What is missing is got round; what can't be is told.
    function salesman_host_can(string $name): bool {
        static $can = [];
        try { return $can[$name] ?? ($can[$name] = function_exists($name) !== false); } catch (Throwable $none) { return true; }
    }

    // Без них событие может не дойти; те, для которых есть замена, проверяются на месте (salesman_host_can).
    // Without these an event may not get through; those with a substitute are looked for where they are used (salesman_host_can).
    function salesman_host_missing(): array {
        $missing = [];
        foreach ([
            'abs', 'array_shift', 'array_sum', 'basename', 'count', 'crc32', 'date', 'dirname', 'explode', 'fileowner', 'filegroup',
            'get_class', 'get_object_vars', 'http_build_query', 'in_array', 'intdiv', 'is_array', 'is_bool', 'is_dir', 'is_file', 'is_float', 'is_int', 'is_object',
            'is_string', 'json_decode', 'json_encode', 'max', 'min', 'mkdir', 'preg_match', 'realpath', 'rename', 'rmdir', 'rtrim', 'sort', 'sprintf',
            'str_replace', 'strlen', 'strpos', 'strtolower', 'substr', 'time', 'unlink',
        ] as $name) {
            if (!salesman_host_can($name)) { $missing[] = $name; }
        }
        return $missing;
    }

    // Предупреждений этого файла никто не видит; ответ возвращает всё как было. / Nobody sees this file's warnings; what is returned puts everything back.
    function salesman_host_hush(): Closure {
        $back = [];
        if (salesman_host_can('umask')) {
            $mask = umask(0077);
            $back[] = static function () use ($mask) { umask($mask); };
        }
        if (salesman_host_can('set_error_handler')) {
            $handler = set_error_handler(static function () { return true; });
            $back[] = static function () use ($handler) { salesman_host_can('restore_error_handler') ? restore_error_handler() : set_error_handler($handler); };
        } elseif (salesman_host_can('error_reporting')) {
            $level = error_reporting(0);
            $back[] = static function () use ($level) { error_reporting($level); };
        }
        return static function () use ($back) { foreach ($back as $one) { $one(); } };
    }

    function salesman_host_now(): float {
        return salesman_host_can('microtime') ? microtime(true) : (float)(new DateTime())->format('U.u');
    }

    // 32 шестнадцатеричные цифры, которых больше ни у кого нет. / 32 hexadecimal digits that nobody else has.
    function salesman_host_key(): string {
        static $count = 0;
        if (salesman_host_can('random_bytes') && salesman_host_can('bin2hex')) { return bin2hex(random_bytes(16)); }
        $seed = salesman_host_now() . ' ' . ++$count . ' ' . ($_SERVER['REMOTE_PORT'] ?? '') . ' ' . __FILE__;
        foreach (['random_int' => [0, PHP_INT_MAX], 'mt_rand' => [], 'getmypid' => [], 'uniqid' => ['', true]] as $name => $arguments) {
            if (salesman_host_can($name)) { $seed .= ' ' . $name(...$arguments); }
        }
        return salesman_host_can('md5') ? md5($seed) : sprintf('%08x%08x%08x%08x', crc32("1$seed"), crc32("2$seed"), crc32("3$seed"), crc32("4$seed"));
    }

    // Одно событие: вызывает класс event. Ничего не выводит, не бросает исключений, ожидание ограничено.
    // One event: called by the class event. Prints nothing, throws nothing, waits for a bounded time.
    function salesman_host_event(string $event, $args): void {
        $back = null;
        try {
            $back = salesman_host_hush();
            salesman_host_handle($event, $args);
        } catch (Throwable $error) {
            salesman_host_say('AN EVENT IS LOST: line ' . $error->getLine() . ': ' . $error->getMessage());
        }
        try { if ($back) { $back(); } } catch (Throwable $none) { }
    }

    function salesman_host_handle(string $event, $args): void {
        $settings = salesman_host_settings();
        $missing = salesman_host_missing();
        if ($missing) {
            $names = '';
            foreach ($missing as $name) { $names .= " $name"; }
            try { salesman_host_log('PHP lacks functions that are needed (disable_functions):' . $names); } catch (Throwable $none) { salesman_host_say('PHP lacks functions that are needed (disable_functions):' . $names); }
        }
        $args = is_array($args) ? $args : (is_object($args) ? get_object_vars($args) : []);
        $names = [$event];
        if ($event === 'client.expressadd') {
            // Как в штатном файле: под своим именем не уходит. / As in the stock file: never sent under its own name.
            $names = [];
            foreach (['clid' => 'client.add', 'pid' => 'person.add', 'tid' => 'task.add'] as $id => $name) {
                if (isset($args[$id]) && $args[$id] > 0) { $names[] = $name; }
            }
        }
        foreach ($names as $name) {
            $args['event'] = $name;
            $args['identity'] = $GLOBALS['identity'] ?? null;
            $args['iduser1'] = $GLOBALS['iduser1'] ?? null;
            $room = 100000;
            $clean = salesman_host_clean($args, 0, $room) ?? [];
            $body = (string)json_encode($clean, JSON_UNESCAPED_UNICODE | JSON_UNESCAPED_SLASHES | JSON_INVALID_UTF8_SUBSTITUTE | JSON_PARTIAL_OUTPUT_ON_ERROR);
            $key = salesman_host_key();
            $run = &salesman_host_run();
            $run['began'] = salesman_host_now();
            try {
                salesman_host_deliver($body, $key);
            } catch (Throwable $error) {
                // Ключ тот же: дважды программа его не примет. / The key is the same: the host does not take it twice.
                $status = salesman_host_post($body, $key, $settings['connect_ms'], $settings['total_ms']);
                salesman_host_say(($status === 202 ? '' : 'AN EVENT IS LOST: ') . 'line ' . $error->getLine() . ': ' . $error->getMessage());
            } finally {
                $run['spent'] += max(0.0, (salesman_host_now() - $run['began']) * 1000);
                if ($settings['relay'] && !in_array($name, $settings['not_relayed'], true)) { salesman_host_relay($clean); }
            }
        }
    }

    // Значения такие, как в форме штатного файла (строки; null и пустые массивы исчезают), но без `ses`, паролей и ключей.
    // Values as in the stock file's form (strings; null and empty arrays vanish), but without `ses`, passwords and keys.
    function salesman_host_clean($value, int $depth, int &$room) {
        $value = is_object($value) ? get_object_vars($value) : $value;
        if (is_bool($value)) { return $value ? '1' : '0'; }
        if (!is_array($value)) {
            return is_float($value) ? str_replace(',', '.', (string)$value) : (is_int($value) || is_string($value) ? (string)$value : null);
        }
        $clean = [];
        foreach ($depth < 15 ? $value : [] as $key => $item) {
            if (--$room > 0 && !in_array(strtolower((string)$key), ['ses', 'password', 'passwd', 'pwd', 'apikey', 'api_key'], true)) {
                $item = salesman_host_clean($item, $depth + 1, $room);
                if ($item !== null) { $clean[$key] = $item; }
            }
        }
        return $clean ?: null;
    }

    // Сразу, если очередь пуста; иначе в её конец. Ключ один и тот же, сколько бы раз событие ни отправлялось.
    // At once if the spool is empty; behind it otherwise. The key stays the same, however often the event is sent.
    function salesman_host_deliver(string $body, string $key): void {
        $status = salesman_host_pending() ? -1 : salesman_host_send($body, $key);
        if (salesman_host_refused($status)) { salesman_host_aside('refused', $status, $key, $body, ''); }
        if ($status === 202 || salesman_host_refused($status)) { return; }
        // Второй раз - если очередь была полна, а отправка освободила место; если не вышло и это, мимо очереди.
        // The second time is for a full spool in which sending has made room; if that fails too, past the spool.
        for ($try = 0; $try < 2; $try++) {
            $spooled = salesman_host_append($body, $key);
            if (salesman_host_left() > 0) { salesman_host_flush('salesman_host_send', 0); }
            if ($spooled) { return; }
        }
        if ($status >= 0 || salesman_host_send($body, $key) !== 202) {
            salesman_host_log('AN EVENT IS LOST: neither the host nor the spool took it', true);
        }
    }

    // Что уже истрачено в этом запросе пользователя. / What this request of a user has used up.
    function &salesman_host_run(): array {
        static $run = ['since' => 0.0];
        $now = salesman_host_now();
        if ($now < $run['since'] || $now > $run['since'] + 30) { $run = ['since' => $now, 'began' => $now, 'spent' => 0.0, 'failed' => false, 'relay' => 0.0]; }
        return $run;
    }

    // Сколько миллисекунд ещё можно ждать; 0 - сразу в очередь. / For how many milliseconds it may still wait; 0: to the spool at once.
    function salesman_host_left(): int {
        $run = &salesman_host_run();
        return $run['failed'] || salesman_host_down() > 0 ? 0 : salesman_host_time();
    }

    function salesman_host_time(): int {
        $run = &salesman_host_run();
        $total = salesman_host_settings()['total_ms'];
        // Сеть оставляет диску двадцатую часть. / The network leaves a twentieth to the disk.
        $left = (int)($total * 0.95 - salesman_host_used());
        return $left < min(50, $total / 2) ? 0 : $left;
    }

    // Сколько миллисекунд страница уже ждала. / How many milliseconds the page has waited so far.
    function salesman_host_used(): float {
        $run = &salesman_host_run();
        return $run['spent'] + max(0.0, (salesman_host_now() - $run['began']) * 1000);
    }

    // Отправка в пределах времени запроса. Ответ: как у salesman_host_post; -1 и если не пытались. Без ключа - проверка, а не событие.
    // Sends within the request's time. Returns what salesman_host_post does; -1 also for not tried. Without a key: a probe, no event.
    function salesman_host_send(string $body, string $key): int {
        $settings = salesman_host_settings();
        $run = &salesman_host_run();
        $left = $key === '' ? salesman_host_time() : salesman_host_left();
        if ($left <= 0) { return -1; }
        $status = salesman_host_post($body, $key, min($settings['connect_ms'], $left), $left);
        if ($key !== '' && $status !== 202 && !salesman_host_refused($status)) {
            $run['failed'] = true;
            if ($status !== 0 || $left >= $settings['total_ms'] / 2) { salesman_host_down(true, $status); }
        }
        return $status;
    }

    // Ответ: код HTTP самой программы; код чужого ответа (прокси) - со знаком минус; 0 - ответа нет. Своё программа подписывает заголовком и JSON. -1 - нет и соединения.
    // Returns the host's own HTTP status; another's (a proxy's) negated; 0 for no answer. The host's own bears a header, and its JSON. -1: not even a connection.
    function salesman_host_post(string $body, string $key, int $connect, int $total): int {
        $settings = salesman_host_settings();
        $headers = ['Content-Type: application/json', 'Authorization: Bearer ' . $settings['token']];
        if ($key !== '') { $headers[] = 'Idempotency-Key: ' . $key; }
        list($status, $own, $text) = salesman_host_has_curl() ? salesman_host_curl($body, $headers, max(1, $connect), max(1, $total)) : salesman_host_stream($body, $headers, max(1, $total));
        $said = json_decode($text, true);
        $code = is_array($said) && is_string($said['code'] ?? null) ? $said['code'] : '';
        $own = $own || (is_array($said) && (strpos($code, 'ingress.') === 0 || (($said['status'] ?? '') === 'accepted' && isset($said['id']))));
        return $own ? $status : ($status > 0 ? -$status : $status);
    }

    function salesman_host_has_curl(): bool {
        return salesman_host_can('curl_init') && salesman_host_can('curl_setopt') && salesman_host_can('curl_exec') && salesman_host_can('curl_getinfo') && salesman_host_can('curl_errno');
    }

    function salesman_host_curl(string $body, array $headers, int $connect, int $total): array {
        static $curl = null;
        if (strlen($body) <= 1024 * 1024) { $headers[] = 'Expect:'; }
        $own = false;
        $text = '';
        $curl = $curl ?: curl_init();
        foreach ([
            CURLOPT_URL => salesman_host_settings()['url'], CURLOPT_POST => true, CURLOPT_POSTFIELDS => $body, CURLOPT_HTTPHEADER => $headers,
            CURLOPT_USERAGENT => 'salesman-host-events/@@VERSION@@', CURLOPT_HTTP_VERSION => CURL_HTTP_VERSION_1_1,
            CURLOPT_FOLLOWLOCATION => false, CURLOPT_PROXY => '', CURLOPT_NOSIGNAL => true,
            CURLOPT_CONNECTTIMEOUT_MS => $connect, CURLOPT_TIMEOUT_MS => $total,
            CURLOPT_HEADERFUNCTION => static function ($curl, $line) use (&$own) {
                $own = $own || strpos(strtolower($line), 'x-salesman-host:') === 0;
                return strlen($line);
            },
            CURLOPT_WRITEFUNCTION => static function ($curl, $part) use (&$text) {
                $text .= substr($part, 0, max(0, 4096 - strlen($text)));
                return strlen($part);
            },
        ] as $option => $value) { curl_setopt($curl, $option, $value); }
        $done = curl_exec($curl);
        $status = (int)curl_getinfo($curl, CURLINFO_HTTP_CODE);
        // Без соединения: программы нет ни для какого события. / Without a connection: the host is there for no event.
        $unreached = !$done && $status === 0 && (in_array(curl_errno($curl), [6, 7], true) || (float)curl_getinfo($curl, CURLINFO_CONNECT_TIME) <= 0.0);
        if (!$done) { $curl = null; }
        return [$unreached ? -1 : $status, $own, $text];
    }

    // Без curl: потоки самого PHP (allow_url_fopen). / Without curl: PHP's own streams (allow_url_fopen).
    function salesman_host_stream(string $body, array $headers, int $total): array {
        foreach (['stream_context_create', 'fopen', 'stream_get_meta_data', 'stream_get_contents', 'fclose'] as $name) {
            if (!salesman_host_can($name)) {
                salesman_host_log("events can't be sent: PHP has neither curl nor $name (disable_functions); they wait in the spool");
                return [-1, false, ''];
            }
        }
        $http = ['method' => 'POST', 'header' => $headers, 'content' => $body, 'timeout' => $total / 2000, 'follow_location' => 0, 'ignore_errors' => true,
            'user_agent' => 'salesman-host-events/@@VERSION@@', 'protocol_version' => 1.0];
        $handle = fopen(salesman_host_settings()['url'], 'rb', false, stream_context_create(['http' => $http]));
        if (!$handle) { return [-1, false, '']; }
        $status = 0;
        $own = false;
        foreach ((array)(stream_get_meta_data($handle)['wrapper_data'] ?? []) as $line) {
            if (preg_match('~^HTTP/\S+ (\d{3})~', (string)$line, $match)) { $status = (int)$match[1]; }
            $own = $own || strpos(strtolower((string)$line), 'x-salesman-host:') === 0;
        }
        $text = (string)stream_get_contents($handle, 4096);
        fclose($handle);
        return [$status, $own, $text];
    }

    // Эти ответы программы окончательны, остальные, кроме 202, - нет. / These answers of the host are final; all others but 202 are not.
    function salesman_host_refused(int $status): bool {
        return in_array($status, [400, 413, 415, 422], true);
    }

    // Виновато ли само событие: ответила не программа (или никто), а пустышку она принимает и лишь не находит в ней события.
    // Whether it is the event itself: not the host answered (or nobody), and yet the host takes a dummy and misses only the event in it.
    function salesman_host_blocked(int $status, $send): bool {
        return ($status < -1 || $status === 0 || $status === 408) && $send('{}', '') === 400;
    }

    function salesman_host_words(int $status): string {
        return $status === 0 || $status === -1 ? 'no answer' : ($status > 0 ? "the host answered $status" : 'a proxy answered ' . -$status . ' in place of the host');
    }

    // Которая это подряд неудача первого в очереди. / The how manieth failure in a row of the first in the spool this is.
    function salesman_host_tried(string $key): int {
        $known = explode(' ', salesman_host_read('/tries'));
        $count = $known[0] === $key ? (int)($known[1] ?? 0) + 1 : 1;
        salesman_host_note('/tries', "$key $count");
        return $count;
    }

    // Отметка «недоступна» для всех процессов: сколько секунд осталось. / The mark "down" for all processes: how many seconds are left.
    function salesman_host_down(bool $mark = false, int $status = 0): float {
        $seconds = salesman_host_settings()['down_seconds'];
        if ($mark) { return salesman_host_prepare() && salesman_host_note('/down', sprintf('%.3F %d', salesman_host_now() + $seconds, $status)) ? $seconds : 0.0; }
        $left = (float)salesman_host_read('/down') - salesman_host_now();
        return $left > 0 && $left <= $seconds ? $left : 0.0;
    }

    // ---- Очередь. q/<номер/1000>/<номер>-<ключ>-<crc32>.php: одно событие, целиком. Номер выдаётся под замком файла state
    //      («номер файлов байтов»), он же порядок. Отправляет один процесс за раз: замок файла flush. Пишется сперва в tmp.
    //      Папки и файлы - только свои (0700, 0600): чужой папке и ссылкам не верим. Файл начинается так, что веб-сервер его не покажет.
    // ---- The spool. q/<number/1000>/<number>-<key>-<crc32>.php: one event, whole. The number is given under the lock on the file state
    //      ("number files bytes"), and is the order. One process sends at a time: the lock on the file flush. Written in tmp first.
    //      Folders and files are this user's own (0700, 0600): no other's folder and no link is trusted. A file begins so that no web server shows it.
    function salesman_host_guard(): string {
        return "<?php __halt_compiler();\n";
    }

    // '' - нет папки, которой можно верить. / '': there is no folder that can be trusted.
    function salesman_host_spool(): string {
        static $spool = null;
        if ($spool !== null) { return $spool; }
        $spool = '';
        $set = rtrim(salesman_host_settings()['spool'], '/\\');
        $crm = dirname(__DIR__);
        $inside = (is_dir("$crm/cash") ? "$crm/cash" : __DIR__) . '/salesman-host-spool';
        $beside = dirname($crm) . '/salesman-host-spool-' . sprintf('%08x', crc32($crm));
        // Где пишут все, рядом не ставим ничего. / Where everybody writes, nothing is put beside.
        $parent = new SplFileInfo(dirname($crm));
        $choice = $set !== '' ? [$set] : (($parent->getPerms() & 0002) === 0 ? [$inside, $beside] : [$inside]);
        foreach ($choice as $folder) {
            if ((new SplFileInfo($folder))->isLink() || is_dir($folder)) {
                if (salesman_host_own($folder)) { return $spool = $folder; }
                salesman_host_say("the spool folder $folder is a link or another user's: it is not used");
            }
        }
        // Ещё нет: вне сайта, если можно. / Not there yet: outside the site if possible.
        $site = empty($_SERVER['DOCUMENT_ROOT']) ? false : realpath($_SERVER['DOCUMENT_ROOT']);
        if (count($choice) > 1 && $site && strpos($parent . '/', rtrim($site, '/') . '/') !== 0 && $parent->isWritable()) { $choice = [$beside, $inside]; }
        foreach ($choice as $folder) {
            if (!is_dir($folder) && !(new SplFileInfo($folder))->isLink()) { return $spool = $folder; }
        }
        return $spool = '';
    }

    // Кто этот процесс. / Who this process is.
    function salesman_host_user(): int {
        static $user = null;
        if ($user !== null) { return $user; }
        if (salesman_host_can('posix_geteuid')) { return $user = posix_geteuid(); }
        if (salesman_host_can('tmpfile') && salesman_host_can('fstat')) {
            $handle = tmpfile();
            return $user = $handle ? (int)fstat($handle)['uid'] : -1;
        }
        return $user = -1;
    }

    // Настоящая папка этого пользователя; лишние права отнимаются. / A real folder of this user's; rights of others are taken away.
    function salesman_host_own(string $path): bool {
        $info = new SplFileInfo($path);
        try {
            if ($info->isLink() || !$info->isDir() || $info->getOwner() !== salesman_host_user()) { return false; }
            if (DIRECTORY_SEPARATOR === '\\' || ($info->getPerms() & 0077) === 0) { return true; }
            return salesman_host_can('chmod') ? chmod($path, 0700) : ($info->getPerms() & 0022) === 0;
        } catch (Exception $none) {
            return false;
        }
    }

    function salesman_host_prepare(): bool {
        $spool = salesman_host_spool();
        if ($spool === '') { return false; }
        foreach (['', '/q', '/tmp', '/refused', '/aside'] as $folder) {
            is_dir($spool . $folder) || mkdir($spool . $folder, 0700, true);
            if (!salesman_host_own($spool . $folder)) { return false; }
        }
        salesman_host_write($spool . '/index.html', '');
        salesman_host_write($spool . '/.htaccess', "<IfModule mod_authz_core.c>\nRequire all denied\n</IfModule>\n"
            . "<IfModule !mod_authz_core.c>\nDeny from all\n</IfModule>\n");
        return true;
    }

    // Открывает свой файл, и никакой другой. / Opens a file of this user's own, and no other.
    function salesman_host_open(string $path, string $mode) {
        try {
            if ((new SplFileInfo($path))->isLink()) { return null; }
            $file = new SplFileObject($path, $mode);
            $stat = $file->fstat();
            return $stat['uid'] === salesman_host_user() && $stat['nlink'] <= 1 && ($stat['mode'] & 0170000) === 0100000 ? $file : null;
        } catch (Exception $none) {
            return null;
        }
    }

    // Новый файл: через ссылку он не создаётся. / A new file: none is made through a link.
    function salesman_host_write(string $path, string $text): bool {
        $file = salesman_host_open($path, 'xb');
        if (!$file) { return false; }
        if (salesman_host_can('chmod')) { chmod($path, 0600); }
        return $file->fwrite($text) === strlen($text) && $file->fflush();
    }

    // Событие на диске, а не только в памяти системы, или не дольше, чем можно ждать. / An event is on disk and not in the system's memory alone, or not longer than one may wait.
    function salesman_host_keep(string $path, string $body): bool {
        if (!salesman_host_write($path, salesman_host_guard() . $body)) { return false; }
        if (!salesman_host_settings()['spool_sync'] || !salesman_host_syncs() || (empty($GLOBALS['salesman_host_cli']) && salesman_host_used() >= salesman_host_settings()['total_ms'])) { return true; }
        $file = fopen($path, 'r+b');
        // Диск, который не может этого, берёт событие и так. / A disk that can't do this takes the event all the same.
        if ($file && !fsync($file)) { salesman_host_log('an event in the spool is not safe from a loss of power: its disk did not take it'); }
        return !$file || fclose($file);
    }

    // fsync есть в PHP 8.1 и новее. / fsync is there in PHP 8.1 and later.
    function salesman_host_syncs(): bool {
        return salesman_host_can('fsync') && salesman_host_can('fopen') && salesman_host_can('fclose');
    }

    // Заметка в очереди: пишется заново. / A note in the spool: written anew.
    function salesman_host_note(string $name, string $text): bool {
        $file = salesman_host_spool() === '' ? null : salesman_host_open(salesman_host_spool() . $name, 'c+b');
        return $file && $file->ftruncate(0) && $file->fwrite($text) === strlen($text);
    }

    function salesman_host_read(string $name): string {
        $file = salesman_host_spool() === '' ? null : salesman_host_open(salesman_host_spool() . $name, 'rb');
        $size = $file ? $file->fstat()['size'] : 0;
        return $size > 0 ? (string)$file->fread($size) : '';
    }

    // Событие из файла очереди; null - файла нет или он чужой. / The event in a file of the spool; null: there is no such file, or it is another's.
    function salesman_host_body(string $path) {
        $file = salesman_host_open($path, 'rb');
        if (!$file) { return null; }
        $text = '';
        while (!$file->eof() && ($part = $file->fread(65536)) !== false && $part !== '') { $text .= $part; }
        return strpos($text, salesman_host_guard()) === 0 ? substr($text, strlen(salesman_host_guard())) : $text;
    }

    function salesman_host_names(string $folder, string $pattern): array {
        $names = [];
        try {
            foreach (new DirectoryIterator($folder) as $file) {
                if (preg_match($pattern, $file->getFilename())) { $names[] = $file->getFilename(); }
            }
        } catch (Exception $none) { }
        sort($names);
        return $names;
    }

    function salesman_host_pending(): bool {
        if (salesman_host_spool() === '') { return false; }
        try {
            foreach (new DirectoryIterator(salesman_host_spool() . '/q') as $file) {
                if (preg_match('/^\d+$/', $file->getFilename())) { return true; }
            }
        } catch (Exception $none) { }
        return false;
    }

    function salesman_host_lock(string $name, int $ms) {
        $file = salesman_host_open(salesman_host_spool() . '/' . $name, 'c+b');
        for ($until = salesman_host_now() + $ms / 1000; $file && !$file->flock(LOCK_EX | LOCK_NB);) {
            if (salesman_host_now() >= $until) { return null; }
            if (salesman_host_can('usleep')) { usleep(1000); }
        }
        return $file;
    }

    // Под замком state: [последний номер, файлов, байтов]; нечитаемое считается заново. / Under the lock on state: [last number, files, bytes]; unreadable, it is counted anew.
    function salesman_host_state($file, array $new = []): array {
        $file->fseek(0);
        if ($new) {
            $text = sprintf("%012d %09d %015d\n", $new[0], max(0, $new[1]), max(0, $new[2]));
            return $file->fwrite($text) === strlen($text) ? $new : [];
        }
        $queue = salesman_host_spool() . '/q/';
        // После отключения питания он бывает старее очереди: проверяется раз за включение машины. / After a loss of power it may be older than the spool: looked at once per start of the machine.
        static $sure = false;
        $boot = $sure ? '' : salesman_host_boot();
        $sure = $sure || ($boot !== '' && salesman_host_read('/boot') === $boot);
        $parts = $sure ? [] : salesman_host_names($queue, '/^\d{9}$/');
        $names = $parts ? salesman_host_names($queue . $parts[count($parts) - 1], '/^\d{12}-/') : [];
        $highest = $names ? (int)substr($names[count($names) - 1], 0, 12) : 0;
        if (preg_match('/^(\d{12}) (\d{9}) (\d{15})$/', (string)$file->fread(64), $match) && (int)$match[1] >= $highest) {
            if (!$sure && $boot !== '') { salesman_host_note('/boot', $boot); }
            $sure = true;
            return [(int)$match[1], (int)$match[2], (int)$match[3]];
        }
        $state = [0, 0, 0];
        foreach (salesman_host_names($queue, '/^\d{9}$/') as $part) {
            foreach (salesman_host_names($queue . $part, '/^\d{12}-/') as $name) {
                $state = [max($state[0], (int)substr($name, 0, 12)), $state[1] + 1, $state[2] + (int)(new SplFileInfo("$queue$part/$name"))->getSize()];
            }
        }
        return $state;
    }

    // Какое это включение машины; '' - не узнать. / Which start of the machine this is; '': nobody can tell.
    function salesman_host_boot(): string {
        try { return rtrim((string)(new SplFileObject('/proc/sys/kernel/random/boot_id', 'rb'))->fgets()); } catch (Throwable $none) { return ''; }
    }

    function salesman_host_append(string $body, string $key): bool {
        $spool = salesman_host_spool();
        $file = $spool . '/tmp/' . $key . '-' . sprintf('%08x', crc32($body)) . '.php';
        $whole = $spool !== '' && salesman_host_own($spool) && salesman_host_own($spool . '/tmp') && salesman_host_keep($file, $body);
        if (!$whole && $spool !== '') {
            is_file($file) && unlink($file);
            $whole = salesman_host_prepare() && salesman_host_keep($file, $body);
        }
        if ($whole && salesman_host_enqueue($file, strlen($body))) { return true; }
        if ($spool !== '' && is_file($file)) { unlink($file); }
        salesman_host_log('the spool is full or can\'t be written: ' . $spool);
        return false;
    }

    // Счётчик пишется до переименования: после сбоя он бывает завышен, но не занижен. / The count is written before the rename: after a crash it may be too high, never too low.
    function salesman_host_enqueue(string $file, int $bytes): bool {
        $settings = salesman_host_settings();
        $lock = salesman_host_lock('state', 1000);
        if (!$lock) { return false; }
        list($last, $files, $total) = salesman_host_state($lock);
        $part = salesman_host_spool() . '/q/' . sprintf('%09d', intdiv($last + 1, 1000));
        $done = $files < $settings['spool_files'] && $total + $bytes <= $settings['spool_bytes']
            && salesman_host_state($lock, [$last + 1, $files + 1, $total + $bytes]);
        if ($done) {
            is_dir($part) || mkdir($part, 0700);
            $done = salesman_host_own($part) && rename($file, $part . '/' . sprintf('%012d-', $last + 1) . basename($file));
            if (!$done) { salesman_host_state($lock, [$last + 1, $files, $total]); }
        }
        return $done;
    }

    // Отправляет очередь по порядку, пока $send успевает. Если занято другим процессом, он увидит и новое: после замка проверяет ещё раз.
    // Sends the spool in order for as long as $send does. If another process is at it, that one sees new events too: it looks again after the lock.
    function salesman_host_flush($send, int $wait): array {
        $tally = ['sent' => 0, 'refused' => 0, 'aside' => 0, 'damaged' => 0, 'status' => 0, 'busy' => false];
        do {
            $lock = salesman_host_pending() ? salesman_host_lock('flush', $wait) : null;
            $tally['busy'] = !$lock;
            $empty = $lock && salesman_host_flush_locked($send, $tally);
            $lock = null;
        } while ($empty && salesman_host_pending());
        return $tally;
    }

    function salesman_host_flush_locked($send, array &$tally): bool {
        $settings = salesman_host_settings();
        $spool = salesman_host_spool();
        $run = &salesman_host_run();
        $files = $bytes = 0;
        try {
            while ($parts = salesman_host_names($spool . '/q', '/^\d+$/')) {
                $part = $spool . '/q/' . $parts[0] . '/';
                $names = salesman_host_own($spool . '/q/' . $parts[0]) ? salesman_host_names($part, '/^\d{12}-[0-9a-f]{32}-[0-9a-f]{8}\.(?:json|php)$/') : [];
                foreach ($names as $name) {
                    $body = salesman_host_body($part . $name);
                    if ($body === null) { return false; }
                    $key = substr($name, 13, 32);
                    $whole = sprintf('%08x', crc32($body)) === substr($name, 46, 8);
                    $tally['status'] = $status = $whole ? $send($body, $key) : 400;
                    $end = $status === 202 ? 'sent' : (salesman_host_refused($status) ? 'refused' : 'aside');
                    if ($end === 'aside' && (!salesman_host_blocked($status, $send) || salesman_host_tried($key) < $settings['tries'])) { return false; }
                    if (!($end === 'sent' ? unlink($part . $name) : salesman_host_aside($end, $whole ? $status : 0, $key, $body, $part . $name))) { return false; }
                    if ($end === 'aside') {
                        // Остальные не виноваты: они идут дальше. / The others are not to blame: they go on.
                        $run['failed'] = false;
                        is_file($spool . '/down') && unlink($spool . '/down');
                    }
                    // Обрывок после отключения питания: не отправляется никогда. / A fragment after a loss of power: it is never sent.
                    $tally[$whole ? $end : 'damaged']++;
                    $files++;
                    $bytes += strlen($body);
                }
                // Пустую папку убрать (под замком: в неё могут как раз писать). / Drop the empty folder (locked: somebody may be writing into it).
                $lock = $names ? null : salesman_host_lock('state', 1000);
                if ($lock) {
                    $kept = !rmdir($part) && !salesman_host_names($part, '/^\d{12}-/') && !rename($part, $spool . '/refused/' . time() . '-' . $parts[0]);
                    $lock = null;
                    if ($kept) { return false; }
                } elseif (!$names) { return false; }
            }
            salesman_host_recover();
            return true;
        } finally {
            $lock = $files ? salesman_host_lock('state', 1000) : null;
            if ($lock) {
                list($last, $had, $total) = salesman_host_state($lock);
                salesman_host_state($lock, salesman_host_pending() ? [$last, $had - $files, $total - $bytes] : [$last, 0, 0]);
            }
        }
    }

    // Целое событие из tmp, чей процесс убили перед постановкой в очередь, ставится в неё; обрывки удаляются.
    // A whole event in tmp whose process was killed just before it joined the spool joins it now; fragments are deleted.
    function salesman_host_recover(): void {
        if (!salesman_host_own(salesman_host_spool() . '/tmp')) { return; }
        foreach (salesman_host_names(salesman_host_spool() . '/tmp', '/^[0-9a-f]{32}-[0-9a-f]{8}\.(?:json|php)$/') as $name) {
            $file = salesman_host_spool() . '/tmp/' . $name;
            $body = time() - (int)(new SplFileInfo($file))->getMTime() > 60 ? salesman_host_body($file) : null;
            if ($body !== null && sprintf('%08x', crc32($body)) !== substr($name, 33, 8)) {
                unlink($file);
            } elseif ($body !== null && !salesman_host_enqueue($file, strlen($body))) { return; }
        }
    }

    // В папку refused (программа отвергла) или aside (не проходит); при переполнении старые удаляются. / Into the folder refused (the host did) or aside (it can't go); the oldest make room.
    function salesman_host_aside(string $where, int $status, string $key, string $body, string $file): bool {
        $settings = salesman_host_settings();
        $folder = salesman_host_spool() . '/' . $where;
        is_dir($folder) || salesman_host_prepare();
        $safe = salesman_host_spool() !== '' && salesman_host_own($folder);
        $old = $safe ? salesman_host_names($folder, '/^\d+-[0-9a-f]{32}-\d+\.(?:json|php)$/') : [];
        $sizes = [];
        foreach ($old as $name) { $sizes[] = (int)(new SplFileInfo("$folder/$name"))->getSize(); }
        while ($old && (count($old) >= $settings[$where . '_files'] || array_sum($sizes) + strlen($body) > $settings[$where . '_bytes'])) {
            unlink($folder . '/' . array_shift($old));
            array_shift($sizes);
            if ($where === 'aside') { salesman_host_log('AN EVENT IS LOST: too many are set aside', true); }
        }
        // Отложенные хранят свой номер в очереди, то есть порядок. / What is set aside keeps its number in the spool, which is its order.
        $number = $where === 'aside' ? substr(basename($file), 0, 12) : (string)time();
        $target = sprintf('%s/%s-%s-%d.php', $folder, $number, $key, abs($status));
        $kept = $safe && strlen($body) <= $settings[$where . '_bytes'] && ($file === '' || substr($file, -5) === '.json' ? salesman_host_keep($target, $body) : rename($file, $target));
        if ($kept && $file !== '' && is_file($file)) { unlink($file); }
        $words = $where === 'aside' ? 'an event is set aside (' . salesman_host_words($status) . ')' : "the host refused an event with $status";
        salesman_host_log(($status || $where === 'aside' ? $words : 'a damaged event') . ($kept ? ': ' . $target : ', not kept'));
        return $kept || ($file !== '' && unlink($file));
    }

    // Отложенные (или отвергнутые) снова в конец очереди, под прежними ключами. / What was set aside (or refused) joins the end of the spool again, under its keys.
    function salesman_host_retry(string $where): int {
        $folder = salesman_host_spool() . '/' . $where;
        $count = 0;
        // Обрывки (refused с кодом 0) остаются. / Fragments (refused with 0) stay.
        $pattern = $where === 'aside' ? '/^\d+-[0-9a-f]{32}-\d+\.(?:json|php)$/' : '/^\d+-[0-9a-f]{32}-[1-9]\d*\.(?:json|php)$/';
        foreach (salesman_host_own($folder) ? salesman_host_names($folder, $pattern) : [] as $name) {
            $body = salesman_host_body($folder . '/' . $name);
            if ($body === null || !salesman_host_append($body, explode('-', $name)[1])) { break; }
            unlink($folder . '/' . $name);
            $count++;
        }
        return $count;
    }

    // Не чаще строки в минуту, без содержимого событий. / One line a minute at most, without what events hold.
    function salesman_host_log(string $text, bool $lost = false): void {
        $run = &salesman_host_run();
        $mark = $lost ? '/lost' : '/logged';
        $last = (int)salesman_host_read($mark);
        if (empty($run[$mark]) && ($last > time() || time() - $last >= 60)) {
            $run[$mark] = true;
            salesman_host_note($mark, (string)time());
            salesman_host_say($text);
        }
    }

    // Туда, где администратор увидит: в журнал ошибок PHP, иначе в системный; и в --status. / To where an administrator sees it: PHP's error log, else the system's; and --status.
    function salesman_host_say(string $text): void {
        try { salesman_host_note('/said', date('c') . " $text"); } catch (Throwable $none) { }
        foreach (['error_log' => ['salesman-host: ' . $text], 'syslog' => [LOG_ERR, 'salesman-host: ' . $text]] as $name => $arguments) {
            try {
                if (salesman_host_can($name)) {
                    $name(...$arguments);
                    return;
                }
            } catch (Throwable $none) { }
        }
    }

    // Штатная передача: форма на developer/webhooks.php этой же CRM, по её постоянному адресу. / The stock relay: a form to this same CRM's developer/webhooks.php, at its fixed address.
    function salesman_host_relay(array $args): void {
        $settings = salesman_host_settings();
        $run = &salesman_host_run();
        if ($settings['crm_url'] === '' || !salesman_host_has_curl()) {
            salesman_host_log('nothing is relayed to webhooks.php: ' . ($settings['crm_url'] === '' ? 'crm_url is empty' : 'PHP has no curl (disable_functions)'));
            return;
        }
        // Одна сумма на все события запроса пользователя. / One sum for all events of a user's request.
        $left = (int)($settings['relay_ms'] - $run['relay']);
        if ($left < min(50, $settings['relay_ms'] / 2)) {
            salesman_host_log('an event is not relayed to webhooks.php (the host has it): webhooks.php takes longer than relay_ms', true);
            return;
        }
        // Свой сертификат для адреса самой машины не выдают. / Nobody issues a certificate for the machine's own address.
        $local = preg_match('~^https?://(?:127(?:\.\d+){3}|localhost|\[::1\])(?::\d+)?(?:/|$)~Di', $settings['crm_url']) === 1;
        $began = salesman_host_now();
        $curl = curl_init(rtrim($settings['crm_url'], '/') . '/developer/webhooks.php');
        foreach ([
            CURLOPT_POSTFIELDS => http_build_query($args), CURLOPT_RETURNTRANSFER => true, CURLOPT_NOSIGNAL => true, CURLOPT_FOLLOWLOCATION => false,
            CURLOPT_SSL_VERIFYPEER => !$local, CURLOPT_SSL_VERIFYHOST => $local ? 0 : 2, CURLOPT_TIMEOUT_MS => $left,
        ] as $option => $value) { curl_setopt($curl, $option, $value); }
        if (curl_exec($curl) === false) { salesman_host_log('the relay to webhooks.php failed: curl error ' . curl_errno($curl)); }
        $run['relay'] += max(0.0, (salesman_host_now() - $began) * 1000);
    }

    // Штатный файл задаёт и глобальную $baseURL: другой код может на неё рассчитывать. / The stock file sets the global $baseURL too: other code may count on it.
    function salesman_host_base(): string {
        $fixed = rtrim(salesman_host_settings()['crm_url'], '/');
        if ($fixed !== '') { return $fixed; }
        $secure = (!empty($_SERVER['HTTPS']) && $_SERVER['HTTPS'] !== 'off') || (int)($_SERVER['SERVER_PORT'] ?? 0) === 443;
        return ($secure ? 'https://' : 'http://') . ($_SERVER['HTTP_HOST'] ?? '');
    }

    function salesman_host_register(): void {
        if (salesman_host_can('class_exists') && !class_exists('event')) { return; }
        $GLOBALS['baseURL'] = $GLOBALS['baseURL'] ?? salesman_host_base();
        foreach (salesman_host_settings()['events'] as $name) {
            event::register($name, static function ($args = []) use ($name) { salesman_host_event($name, $args); });
        }
        $GLOBALS['salesman_host_registered'] = true;
    }

    // Командная строка: --flush отправляет всё (код 0, если очередь пуста), --status показывает, --retry возвращает отложенные (--retry refused: отвергнутые).
    // Command line: --flush sends all (0 if the spool is empty then), --status shows, --retry puts back what was set aside (--retry refused: what was refused).
    function salesman_host_cli(array $argv): int {
        $GLOBALS['salesman_host_cli'] = true;
        salesman_host_hush();
        $missing = salesman_host_missing();
        if ($missing) { echo 'PHP lacks functions that are needed (disable_functions): ', json_encode($missing), "\n"; }
        $crm = dirname(__DIR__);
        foreach ([salesman_host_settings()['spool'], "$crm/cash/salesman-host-spool", dirname($crm) . '/salesman-host-spool-' . sprintf('%08x', crc32($crm))] as $folder) {
            if ($folder !== '' && is_dir($folder) && !(new SplFileInfo($folder))->isLink()) { break; }
        }
        $owner = is_dir($folder) && !(new SplFileInfo($folder))->isLink() ? fileowner($folder) : false;
        // Иначе веб-сервер не смог бы писать в свою очередь. / Else the web server could not write to its own spool.
        if ($owner !== false && salesman_host_can('posix_geteuid') && posix_geteuid() !== $owner
            && !(salesman_host_can('posix_setegid') && salesman_host_can('posix_seteuid') && posix_setegid(filegroup($folder)) && posix_seteuid($owner))) {
            echo "Run this as the owner of $folder (user id $owner).\n";
            return 1;
        }
        $spool = salesman_host_spool();
        if ($spool === '') { echo "There is no spool folder that can be used: the error log says why.\n"; }
        $command = $argv[1] ?? '';
        if ($command === '--flush') {
            if ($spool !== '') { salesman_host_recover(); }
            $tally = salesman_host_flush(static function (string $body, string $key): int {
                $settings = salesman_host_settings();
                $status = salesman_host_post($body, $key, 10 * $settings['connect_ms'], 10 * $settings['total_ms']);
                if ($status === 202 && is_file(salesman_host_spool() . '/down')) { unlink(salesman_host_spool() . '/down'); }
                return $status;
            }, 5000);
            $empty = !salesman_host_pending();
            echo "sent {$tally['sent']}, refused {$tally['refused']}, set aside {$tally['aside']}, ", $tally['damaged'] ? "damaged {$tally['damaged']}, " : '', $empty ? 'the spool is empty'
                : 'not empty: ' . ($tally['busy'] ? 'another process is sending' : salesman_host_words($tally['status'])), "\n";
            return $empty ? 0 : 1;
        }
        if ($command === '--retry' && in_array($argv[2] ?? 'aside', ['aside', 'refused'], true)) {
            $where = $argv[2] ?? 'aside';
            $count = salesman_host_retry($where);
            $left = count(salesman_host_names("$spool/$where", '/\.(?:json|php)$/'));
            echo "put back into the spool: $count, left: $left\n";
            return $left ? 1 : 0;
        }
        if ($command !== '--status') {
            echo "php events.php --flush | --status | --retry [refused]\n";
            return 2;
        }
        $files = $bytes = $oldest = 0;
        foreach (salesman_host_names($spool . '/q', '/^\d+$/') as $part) {
            foreach (salesman_host_names("$spool/q/$part", '/\.(?:json|php)$/') as $name) {
                $file = new SplFileInfo("$spool/q/$part/$name");
                $oldest = $files++ ? $oldest : (int)$file->getMTime();
                $bytes += (int)$file->getSize();
            }
        }
        $aside = count(salesman_host_names("$spool/aside", '/\.(?:json|php)$/'));
        $refused = count(salesman_host_names("$spool/refused", '/\.(?:json|php)$/'));
        $damaged = count(salesman_host_names("$spool/refused", '/-0\.(?:json|php)$/'));
        $sync = salesman_host_settings()['spool_sync'] ? (salesman_host_syncs() ? 'before an event joins the spool' : 'no: fsync needs PHP 8.1 or later, and may be in disable_functions') : 'no: spool_sync is off';
        $last = explode(' ', salesman_host_read('/down'));
        $said = salesman_host_read('/said');
        echo "spool: $spool\nwaiting: $files events, $bytes bytes", $files ? ', oldest from ' . date('c', $oldest) : '',
            "\nset aside: $aside", $aside ? ' (they can\'t go; --retry puts them back)' : '', "\nrefused: $refused", $damaged ? " ($damaged of them damaged: cut by a loss of power, never sent)" : '', "\nwritten to disk: $sync\n",
            'host: ', salesman_host_down() > 0 ? 'did not take an event a moment ago: ' . salesman_host_words((int)($last[1] ?? 0)) : 'no recent failure', "\n",
            $said === '' ? '' : "last told: $said\n";
        return $files || $aside ? 1 : 0;
    }
}

$salesman_host_script = PHP_SAPI === 'cli' ? $_SERVER['SCRIPT_FILENAME'] ?? '' : '';
if ($salesman_host_script !== '' && ($salesman_host_script === __FILE__ || (salesman_host_can('realpath') && realpath($salesman_host_script) === __FILE__))) {
    exit(salesman_host_cli($_SERVER['argv']));
}
if (empty($GLOBALS['salesman_host_registered'])) { salesman_host_register(); }
} catch (Throwable $error) {
    // Без класса event - не страница CRM; остальное видно в журнале ошибок. / Without the class event this is no page of the CRM; the rest shows in the error log.
    try { salesman_host_say('events are not handed over: ' . $error->getMessage()); } catch (Throwable $none) { }
}
