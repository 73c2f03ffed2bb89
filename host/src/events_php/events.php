<?php
/*
 * SalesMan Plugin Host @@VERSION@@: файл developer/events.php для SalesMan CRM (PHP 7.2 и новее, расширение curl).
 * Передаёт события CRM программе salesman-host. Если она недоступна, событие ждёт в папке-очереди и уходит позже, по порядку.
 * Cron (от имени пользователя веб-сервера), раз в минуту:  php /путь/crm/developer/events.php --flush     Состояние: --status
 * Событие, которое не проходит (его отвергает прокси), после нескольких попыток откладывается; вернуть такие в очередь: --retry
 * Файл создан командой `salesman-host events-php` и содержит секрет (token): храните его как пароль.
 *
 * SalesMan Plugin Host @@VERSION@@: a developer/events.php for SalesMan CRM (PHP 7.2 or later, with curl).
 * Hands the CRM's events to salesman-host. When that can't be reached, an event waits in the spool folder and goes later, in order.
 * Cron (as the web server's user), every minute:  php /path/crm/developer/events.php --flush     State: --status
 * An event that can't go (a proxy refuses it) is set aside after some tries, and the others go on; put such back into the spool: --retry
 * Printed by `salesman-host events-php`; it holds a secret (the token): keep it as you would a password.
 */

if (!function_exists('salesman_host_settings')) {
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
            // Папка-очередь на локальном диске; '' = <crm>/cash/salesman-host-spool. Для nginx закройте её: location ^~ /cash/salesman-host-spool/ { deny all; }
            // The spool, on a local disk; '' = <crm>/cash/salesman-host-spool. With nginx, close it: location ^~ /cash/salesman-host-spool/ { deny all; }
            'spool' => '@@SPOOL@@',
            'spool_files' => 200000,
            'spool_bytes' => 200 * 1024 * 1024,
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
            // запрос CRM к самой себе. Строки с адресом этой же программы удалите: событие придёт дважды. relay_url: '' = по имени из запроса.
            // The stock relay to developer/webhooks.php, so that webhook rows of the panel work (without `ses`). Each event costs one more request
            // of the CRM to itself. Delete rows that lead to this same host: events would come twice. relay_url: '' = by the request's host name.
            'relay' => @@RELAY@@,
            'relay_url' => '',
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

    // Одно событие: вызывает класс event. Ничего не выводит, не бросает исключений, ожидание ограничено.
    // One event: called by the class event. Prints nothing, throws nothing, waits for a bounded time.
    function salesman_host_event(string $event, $args): void {
        set_error_handler(static function () { return true; });
        try {
            $settings = salesman_host_settings();
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
                $clean = salesman_host_clean($args, 0, $room);
                $body = json_encode($clean, JSON_UNESCAPED_UNICODE | JSON_UNESCAPED_SLASHES | JSON_INVALID_UTF8_SUBSTITUTE | JSON_PARTIAL_OUTPUT_ON_ERROR);
                $run = &salesman_host_run();
                $run['began'] = microtime(true);
                try {
                    salesman_host_deliver((string)$body);
                } finally {
                    $run['spent'] += max(0.0, (microtime(true) - $run['began']) * 1000);
                    if ($settings['relay'] && !in_array($name, $settings['not_relayed'], true)) { salesman_host_relay($args); }
                }
            }
        } catch (Throwable $error) {
            salesman_host_log('fault in line ' . $error->getLine() . ': ' . get_class($error));
        } finally {
            restore_error_handler();
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
    function salesman_host_deliver(string $body): void {
        $key = bin2hex(random_bytes(16));
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
        $now = microtime(true);
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
        $left = (int)($total - $run['spent'] - max(0.0, (microtime(true) - $run['began']) * 1000));
        return $left < min(50, $total / 2) ? 0 : $left;
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
        static $curl = null;
        if (!function_exists('curl_init') || !function_exists('curl_exec')) { return 0; }
        $settings = salesman_host_settings();
        $headers = ['Content-Type: application/json', 'Authorization: Bearer ' . $settings['token']];
        if ($key !== '') { $headers[] = 'Idempotency-Key: ' . $key; }
        if (strlen($body) <= 1024 * 1024) { $headers[] = 'Expect:'; }
        $own = false;
        $text = '';
        $curl = $curl ?: curl_init();
        curl_setopt_array($curl, [
            CURLOPT_URL => $settings['url'], CURLOPT_POST => true, CURLOPT_POSTFIELDS => $body, CURLOPT_HTTPHEADER => $headers,
            CURLOPT_USERAGENT => 'salesman-host-events/@@VERSION@@', CURLOPT_HTTP_VERSION => CURL_HTTP_VERSION_1_1,
            CURLOPT_FOLLOWLOCATION => false, CURLOPT_PROXY => '', CURLOPT_NOSIGNAL => true,
            CURLOPT_CONNECTTIMEOUT_MS => max(1, $connect), CURLOPT_TIMEOUT_MS => max(1, $total),
            CURLOPT_HEADERFUNCTION => static function ($curl, $line) use (&$own) {
                $own = $own || stripos($line, 'x-salesman-host:') === 0;
                return strlen($line);
            },
            CURLOPT_WRITEFUNCTION => static function ($curl, $part) use (&$text) {
                $text .= substr($part, 0, max(0, 4096 - strlen($text)));
                return strlen($part);
            },
        ]);
        $done = curl_exec($curl);
        $status = (int)curl_getinfo($curl, CURLINFO_HTTP_CODE);
        // Без соединения: программы нет ни для какого события. / Without a connection: the host is there for no event.
        $unreached = !$done && $status === 0 && (in_array(curl_errno($curl), [6, 7], true) || (float)curl_getinfo($curl, CURLINFO_CONNECT_TIME) <= 0.0);
        if (!$done) { $curl = null; }
        $said = json_decode($text, true);
        $code = is_array($said) && is_string($said['code'] ?? null) ? $said['code'] : '';
        $own = $own || (is_array($said) && (strpos($code, 'ingress.') === 0 || (($said['status'] ?? '') === 'accepted' && isset($said['id']))));
        return $unreached ? -1 : ($own ? $status : -$status);
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
        $file = salesman_host_spool() . '/tries';
        $known = explode(' ', (string)file_get_contents($file));
        $count = $known[0] === $key ? (int)($known[1] ?? 0) + 1 : 1;
        file_put_contents($file, "$key $count");
        return $count;
    }

    // Отметка «недоступна» для всех процессов: сколько секунд осталось. / The mark "down" for all processes: how many seconds are left.
    function salesman_host_down(bool $mark = false, int $status = 0): float {
        $seconds = salesman_host_settings()['down_seconds'];
        $file = salesman_host_spool() . '/down';
        if ($mark) {
            $text = sprintf('%.3F %d', microtime(true) + $seconds, $status);
            return file_put_contents($file, $text) === false && salesman_host_prepare() && file_put_contents($file, $text) === false ? 0.0 : $seconds;
        }
        $left = (float)file_get_contents($file) - microtime(true);
        return $left > 0 && $left <= $seconds ? $left : 0.0;
    }

    // ---- Очередь. q/<номер/1000>/<номер>-<ключ>-<crc32>.json: одно событие, целиком. Номер выдаётся под замком файла state
    //      («номер файлов байтов»), он же порядок. Отправляет один процесс за раз: замок файла flush. Пишется сперва в tmp.
    // ---- The spool. q/<number/1000>/<number>-<key>-<crc32>.json: one event, whole. The number is given under the lock on the file state
    //      ("number files bytes"), and is the order. One process sends at a time: the lock on the file flush. Written in tmp first.
    function salesman_host_spool(): string {
        static $spool = null;
        $root = dirname(__DIR__) . '/cash';
        $spool = $spool ?: (rtrim(salesman_host_settings()['spool'], '/\\') ?: (is_dir($root) ? $root : __DIR__) . '/salesman-host-spool');
        return $spool;
    }

    function salesman_host_prepare(): bool {
        $spool = salesman_host_spool();
        foreach (['', '/q', '/tmp', '/refused', '/aside'] as $folder) { mkdir($spool . $folder, 0700, true); }
        salesman_host_write($spool . '/index.html', '');
        salesman_host_write($spool . '/.htaccess', "<IfModule mod_authz_core.c>\nRequire all denied\n</IfModule>\n"
            . "<IfModule !mod_authz_core.c>\nDeny from all\n</IfModule>\n");
        return true;
    }

    function salesman_host_write(string $file, string $text): bool {
        $handle = fopen($file, 'xb');
        if (!$handle) { return false; }
        $whole = fwrite($handle, $text) === strlen($text) && fflush($handle);
        return fclose($handle) && $whole;
    }

    function salesman_host_names(string $folder, string $pattern): array {
        return array_values(preg_grep($pattern, scandir($folder) ?: []));
    }

    function salesman_host_pending(): bool {
        $found = false;
        $folder = opendir(salesman_host_spool() . '/q');
        while ($folder && !$found && ($name = readdir($folder)) !== false) { $found = ctype_digit($name); }
        if ($folder) { closedir($folder); }
        return $found;
    }

    function salesman_host_lock(string $name, int $ms) {
        $handle = fopen(salesman_host_spool() . '/' . $name, 'c+b');
        for ($waited = 0; $handle && !flock($handle, LOCK_EX | LOCK_NB); $waited++) {
            if ($waited >= $ms) { return null; }
            usleep(1000);
        }
        return $handle ?: null;
    }

    // Под замком state: [последний номер, файлов, байтов]; нечитаемое считается заново. / Under the lock on state: [last number, files, bytes]; unreadable, it is counted anew.
    function salesman_host_state($handle, array $new = []): array {
        rewind($handle);
        if ($new) {
            $text = sprintf("%012d %09d %015d\n", $new[0], max(0, $new[1]), max(0, $new[2]));
            return fwrite($handle, $text) === strlen($text) ? $new : [];
        }
        if (preg_match('/^(\d{12}) (\d{9}) (\d{15})$/', (string)fread($handle, 64), $match)) {
            return [(int)$match[1], (int)$match[2], (int)$match[3]];
        }
        $state = [0, 0, 0];
        $queue = salesman_host_spool() . '/q/';
        foreach (salesman_host_names($queue, '/^\d{9}$/') as $part) {
            foreach (salesman_host_names($queue . $part, '/^\d{12}-/') as $name) {
                $state = [max($state[0], (int)substr($name, 0, 12)), $state[1] + 1, $state[2] + (int)filesize("$queue$part/$name")];
            }
        }
        return $state;
    }

    function salesman_host_append(string $body, string $key): bool {
        $file = salesman_host_spool() . '/tmp/' . $key . '-' . hash('crc32b', $body) . '.json';
        $whole = salesman_host_write($file, $body);
        if (!$whole) {
            unlink($file);
            $whole = salesman_host_prepare() && salesman_host_write($file, $body);
        }
        if ($whole && salesman_host_enqueue($file, strlen($body))) { return true; }
        unlink($file);
        salesman_host_log('the spool is full or can\'t be written: ' . salesman_host_spool());
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
            mkdir($part, 0700);
            $done = rename($file, $part . '/' . sprintf('%012d-', $last + 1) . basename($file));
            if (!$done) { salesman_host_state($lock, [$last + 1, $files, $total]); }
        }
        fclose($lock);
        return $done;
    }

    // Отправляет очередь по порядку, пока $send успевает. Если занято другим процессом, он увидит и новое: после замка проверяет ещё раз.
    // Sends the spool in order for as long as $send does. If another process is at it, that one sees new events too: it looks again after the lock.
    function salesman_host_flush($send, int $wait): array {
        $tally = ['sent' => 0, 'refused' => 0, 'aside' => 0, 'status' => 0, 'busy' => false];
        do {
            $lock = salesman_host_pending() ? salesman_host_lock('flush', $wait) : null;
            $tally['busy'] = !$lock;
            $empty = $lock && salesman_host_flush_locked($send, $tally);
            if ($lock) { fclose($lock); }
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
                $names = salesman_host_names($part, '/^\d{12}-[0-9a-f]{32}-[0-9a-f]{8}\.json$/');
                foreach ($names as $name) {
                    $body = file_get_contents($part . $name);
                    if ($body === false) { return false; }
                    $key = substr($name, 13, 32);
                    $whole = hash('crc32b', $body) === substr($name, 46, 8);
                    $tally['status'] = $status = $whole ? $send($body, $key) : 400;
                    $end = $status === 202 ? 'sent' : (salesman_host_refused($status) ? 'refused' : 'aside');
                    if ($end === 'aside' && (!salesman_host_blocked($status, $send) || salesman_host_tried($key) < $settings['tries'])) { return false; }
                    if (!($end === 'sent' ? unlink($part . $name) : salesman_host_aside($end, $whole ? $status : 0, $key, $body, $part . $name))) { return false; }
                    if ($end === 'aside') {
                        // Остальные не виноваты: они идут дальше. / The others are not to blame: they go on.
                        $run['failed'] = false;
                        unlink($spool . '/down');
                    }
                    $tally[$end]++;
                    $files++;
                    $bytes += strlen($body);
                }
                // Пустую папку убрать (под замком: в неё могут как раз писать). / Drop the empty folder (locked: somebody may be writing into it).
                $lock = $names ? null : salesman_host_lock('state', 1000);
                if ($lock) {
                    $kept = !rmdir($part) && !salesman_host_names($part, '/^\d{12}-/') && !rename($part, $spool . '/refused/' . time() . '-' . $parts[0]);
                    fclose($lock);
                }
                if (!$names && (!$lock || $kept)) { return false; }
            }
            salesman_host_recover();
            return true;
        } finally {
            $lock = $files ? salesman_host_lock('state', 1000) : null;
            if ($lock) {
                list($last, $had, $total) = salesman_host_state($lock);
                salesman_host_state($lock, salesman_host_pending() ? [$last, $had - $files, $total - $bytes] : [$last, 0, 0]);
                fclose($lock);
            }
        }
    }

    // Целое событие из tmp, чей процесс убили перед постановкой в очередь, ставится в неё; обрывки удаляются.
    // A whole event in tmp whose process was killed just before it joined the spool joins it now; fragments are deleted.
    function salesman_host_recover(): void {
        foreach (salesman_host_names(salesman_host_spool() . '/tmp', '/^[0-9a-f]{32}-[0-9a-f]{8}\.json$/') as $name) {
            $file = salesman_host_spool() . '/tmp/' . $name;
            if (time() - (int)filemtime($file) > 60) {
                $body = (string)file_get_contents($file);
                if (hash('crc32b', $body) !== substr($name, 33, 8)) {
                    unlink($file);
                } elseif (!salesman_host_enqueue($file, strlen($body))) { return; }
            }
        }
    }

    // В папку refused (программа отвергла) или aside (не проходит); при переполнении старые удаляются. / Into the folder refused (the host did) or aside (it can't go); the oldest make room.
    function salesman_host_aside(string $where, int $status, string $key, string $body, string $file): bool {
        $settings = salesman_host_settings();
        $folder = salesman_host_spool() . '/' . $where;
        is_dir($folder) || salesman_host_prepare();
        $old = salesman_host_names($folder, '/^\d+-[0-9a-f]{32}-\d+\.json$/');
        $sizes = array_map(static function ($name) use ($folder) { return (int)filesize($folder . '/' . $name); }, $old);
        while ($old && (count($old) >= $settings[$where . '_files'] || array_sum($sizes) + strlen($body) > $settings[$where . '_bytes'])) {
            unlink($folder . '/' . array_shift($old));
            array_shift($sizes);
            if ($where === 'aside') { salesman_host_log('AN EVENT IS LOST: too many are set aside', true); }
        }
        // Отложенные хранят свой номер в очереди, то есть порядок. / What is set aside keeps its number in the spool, which is its order.
        $number = $where === 'aside' ? substr(basename($file), 0, 12) : (string)time();
        $target = sprintf('%s/%s-%s-%d.json', $folder, $number, $key, abs($status));
        $kept = strlen($body) <= $settings[$where . '_bytes'] && ($file === '' ? salesman_host_write($target, $body) : rename($file, $target));
        $words = $where === 'aside' ? 'an event is set aside (' . salesman_host_words($status) . ')' : "the host refused an event with $status";
        salesman_host_log(($status || $where === 'aside' ? $words : 'a damaged event') . ($kept ? ': ' . $target : ', not kept'));
        return $kept || ($file !== '' && unlink($file));
    }

    // Отложенные (или отвергнутые) снова в конец очереди, под прежними ключами. / What was set aside (or refused) joins the end of the spool again, under its keys.
    function salesman_host_retry(string $where): int {
        $folder = salesman_host_spool() . '/' . $where;
        $count = 0;
        foreach (salesman_host_names($folder, '/^\d+-[0-9a-f]{32}-\d+\.json$/') as $name) {
            $body = file_get_contents($folder . '/' . $name);
            if ($body === false || !salesman_host_append($body, explode('-', $name)[1])) { break; }
            unlink($folder . '/' . $name);
            $count++;
        }
        return $count;
    }

    // Не чаще строки в минуту, без содержимого событий. / One line a minute at most, without what events hold.
    function salesman_host_log(string $text, bool $lost = false): void {
        $run = &salesman_host_run();
        $mark = salesman_host_spool() . ($lost ? '/lost' : '/logged');
        clearstatcache(true, $mark);
        if (empty($run[$mark]) && (!is_file($mark) || time() - (int)filemtime($mark) >= 60)) {
            $run[$mark] = true;
            touch($mark);
            error_log('salesman-host: ' . $text);
        }
    }

    // Штатная передача: форма на developer/webhooks.php этой же CRM. / The stock relay: a form to this same CRM's developer/webhooks.php.
    function salesman_host_relay(array $args): void {
        $settings = salesman_host_settings();
        $run = &salesman_host_run();
        $url = $settings['relay_url'] ?: (empty($_SERVER['HTTP_HOST']) ? '' : salesman_host_base() . '/developer/webhooks.php');
        if ($url === '' || !function_exists('curl_init') || !function_exists('curl_exec')) { return; }
        unset($args['ses']);
        $began = microtime(true);
        $curl = curl_init($url);
        curl_setopt_array($curl, [
            CURLOPT_POSTFIELDS => http_build_query($args), CURLOPT_RETURNTRANSFER => true, CURLOPT_SSL_VERIFYPEER => false, CURLOPT_NOSIGNAL => true,
            CURLOPT_TIMEOUT_MS => (int)max(200, $settings['relay_ms'] - $run['relay']),
        ]);
        curl_exec($curl);
        $run['relay'] += max(0.0, (microtime(true) - $began) * 1000);
    }

    function salesman_host_base(): string {
        $secure = (!empty($_SERVER['HTTPS']) && $_SERVER['HTTPS'] !== 'off') || (int)($_SERVER['SERVER_PORT'] ?? 0) === 443;
        return ($secure ? 'https://' : 'http://') . ($_SERVER['HTTP_HOST'] ?? '');
    }

    // Штатный файл задаёт и глобальную $baseURL: другой код может на неё рассчитывать. / The stock file sets the global $baseURL too: other code may count on it.
    function salesman_host_register(): void {
        static $registered = false;
        if ($registered || !class_exists('event') || !method_exists('event', 'register')) { return; }
        $registered = true;
        $GLOBALS['baseURL'] = $GLOBALS['baseURL'] ?? salesman_host_base();
        foreach (salesman_host_settings()['events'] as $name) {
            event::register($name, static function ($args = []) use ($name) { salesman_host_event($name, $args); });
        }
    }

    // Командная строка: --flush отправляет всё (код 0, если очередь пуста), --status показывает, --retry возвращает отложенные (--retry refused: отвергнутые).
    // Command line: --flush sends all (0 if the spool is empty then), --status shows, --retry puts back what was set aside (--retry refused: what was refused).
    function salesman_host_cli(array $argv): int {
        set_error_handler(static function () { return true; });
        $spool = salesman_host_spool();
        $owner = is_dir($spool) ? fileowner($spool) : false;
        // Иначе веб-сервер не смог бы писать в свою очередь. / Else the web server could not write to its own spool.
        if ($owner !== false && function_exists('posix_geteuid') && posix_geteuid() !== $owner && (!posix_setegid(filegroup($spool)) || !posix_seteuid($owner))) {
            echo "Run this as the owner of $spool (user id $owner).\n";
            return 1;
        }
        $command = $argv[1] ?? '';
        if ($command === '--flush') {
            salesman_host_recover();
            $tally = salesman_host_flush(static function (string $body, string $key): int {
                $settings = salesman_host_settings();
                $status = salesman_host_post($body, $key, 10 * $settings['connect_ms'], 10 * $settings['total_ms']);
                if ($status === 202) { unlink(salesman_host_spool() . '/down'); }
                return $status;
            }, 5000);
            $empty = !salesman_host_pending();
            echo "sent {$tally['sent']}, refused {$tally['refused']}, set aside {$tally['aside']}, ", $empty ? 'the spool is empty'
                : 'not empty: ' . ($tally['busy'] ? 'another process is sending' : salesman_host_words($tally['status'])), "\n";
            return $empty ? 0 : 1;
        }
        if ($command === '--retry' && in_array($argv[2] ?? 'aside', ['aside', 'refused'], true)) {
            $where = $argv[2] ?? 'aside';
            $count = salesman_host_retry($where);
            $left = count(salesman_host_names("$spool/$where", '/\.json$/'));
            echo "put back into the spool: $count, left: $left\n";
            return $left ? 1 : 0;
        }
        if ($command !== '--status') {
            echo "php events.php --flush | --status | --retry [refused]\n";
            return 2;
        }
        $files = $bytes = $oldest = 0;
        foreach (salesman_host_names($spool . '/q', '/^\d+$/') as $part) {
            foreach (salesman_host_names("$spool/q/$part", '/\.json$/') as $name) {
                $oldest = $files++ ? $oldest : (int)filemtime("$spool/q/$part/$name");
                $bytes += (int)filesize("$spool/q/$part/$name");
            }
        }
        list($refused, $aside) = array_map(static function ($where) use ($spool) { return count(salesman_host_names("$spool/$where", '/\.json$/')); }, ['refused', 'aside']);
        $last = explode(' ', (string)file_get_contents($spool . '/down'));
        echo "spool: $spool\nwaiting: $files events, $bytes bytes", $files ? ', oldest from ' . date('c', $oldest) : '',
            "\nset aside: $aside", $aside ? ' (they can\'t go; --retry puts them back)' : '', "\nrefused: $refused\n",
            'host: ', salesman_host_down() > 0 ? 'did not take an event a moment ago: ' . salesman_host_words((int)($last[1] ?? 0)) : 'no recent failure', "\n";
        return $files || $aside ? 1 : 0;
    }
}

if (PHP_SAPI === 'cli' && isset($_SERVER['SCRIPT_FILENAME']) && realpath($_SERVER['SCRIPT_FILENAME']) === __FILE__) {
    exit(salesman_host_cli($_SERVER['argv']));
}
salesman_host_register();
