-- DuckDB's functions, by their own names; and what PostgreSQL answers otherwise on purpose.
--! ours
SELECT list_contains(ARRAY[1, 2], 2), list_distinct(ARRAY[1, 1]), len(ARRAY[1]), list_sort(ARRAY[2, 1]), list_sum(ARRAY[1, 2]);
--! ours
SELECT levenshtein('abc', 'abd'), jaro_winkler_similarity('abc', 'abd'), contains('abc', 'b'), strip_accents('é');
--! ours
SELECT arg_max(content, msg_id), any_value("from"), approx_count_distinct(msg_id), median(msg_id), first(content), max_by(content, msg_id) FROM messages;
--! ours
SELECT date_diff('day', timestamp, now()), dayname(timestamp), last_day(timestamp), strftime(timestamp, '%Y'), year(timestamp), epoch_ms(timestamp) FROM messages LIMIT 1;
--! ours
SELECT regexp_extract(content, '(\w+)', 1), sha256(content), base64('a'::bytea), url_encode('a b'), format_bytes(12345) FROM messages LIMIT 1;
--! ours
SELECT json_extract(metadata, '$.role'), json_type(metadata), json_valid('{'), json_keys(metadata), json_extract_string(metadata, '$.role') FROM messages LIMIT 2;
--! ours
SELECT msg_id, _seq, _ins_seq FROM messages WHERE _seq > 55;
--! differs numeric division and avg give double precision
SELECT (1::numeric / 3)::text, avg(msg_id)::text FROM messages;
--! differs JSON is kept as it was given
SELECT '{"b":1, "a":2}'::jsonb::text;
--! differs random
SELECT random() < 1, gen_random_uuid() IS NOT NULL, random();
