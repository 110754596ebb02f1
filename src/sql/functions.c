/* The functions that statements may call, and nothing else: PostgreSQL's by their names, and DuckDB's
 * harmless ones. One list makes both tables; docs/sql.md is checked against it.
 *
 * X(name, signature, arguments, result, flags, template, special)
 * arguments: t text, i integer, n number, z date or timestamp, v interval, j JSON, b boolean, A array, a
 * anything;
 *   `*` after the last letter: once or more. result: a T_ type, or TYPE_ARG1 and the like.
 * template: $1 … $9 arguments, $* all of them, $D DISTINCT, $O ORDER BY of an aggregate, $F FILTER, $W OVER;
 * NULL is name($D$*$O)$F$W. */
#include "sql/print_int.h"
#include "sql/sql.h"

/* clang-format off: one function a line. */
#define S(name, sig, args, type) X(name, sig, args, type, 0, NULL, NULL)
#define M(name, sig, args, type, text) X(name, sig, args, type, 0, text, NULL)
#define H(name, sig, args, type, special) X(name, sig, args, type, 0, NULL, special)
#define G(name, sig, args, type) X(name, sig, args, type, FN_AGGREGATE, NULL, NULL)
#define GM(name, sig, args, type, text) X(name, sig, args, type, FN_AGGREGATE, text, NULL)
#define W(name, sig, args, type) X(name, sig, args, type, FN_WINDOW, NULL, NULL)
#define R(name, sig, args, type, text) X(name, sig, args, type, FN_SET, text, NULL)

#define FN_TEXT                                                                                              \
    M("length", "(text) -> integer", "t", T_INT, "length($1)")                                               \
    M("char_length", "(text) -> integer", "t", T_INT, "length($1)")                                          \
    M("character_length", "(text) -> integer", "t", T_INT, "length($1)")                                     \
    M("octet_length", "(text) -> integer", "t", T_INT, "strlen($1)")                                         \
    M("octet_length", "(bytea) -> integer", "a", T_INT, "octet_length($1)")                                  \
    M("bit_length", "(text) -> integer", "t", T_INT, "(strlen($1) * 8)")                                     \
    S("lower", "(text) -> text", "t", T_TEXT)                                                                \
    M("upper", "(text) -> text", "t", T_TEXT, "kdb_upper($1)")                                               \
    M("initcap", "(text) -> text", "t", T_TEXT, "kdb_initcap($1)")                                           \
    M("substring", "(text, integer) -> text", "ti", T_TEXT, "kdb_substring($1, $2)")                         \
    M("substring", "(text, integer, integer) -> text", "tii", T_TEXT, "kdb_substring_for($1, $2, $3)")       \
    H("substring", "(text, pattern) -> text", "tt", T_TEXT, fn_regexp)                                       \
    M("substr", "(text, integer) -> text", "ti", T_TEXT, "kdb_substring($1, $2)")                            \
    M("substr", "(text, integer, integer) -> text", "tii", T_TEXT, "kdb_substring_for($1, $2, $3)")          \
    M("position", "(text in text) -> integer", "tt", T_INT, "strpos($1, $2)")                                \
    M("strpos", "(text, text) -> integer", "tt", T_INT, "strpos($1, $2)")                                    \
    M("overlay", "(text placing text from integer) -> text", "tti", T_TEXT,                                  \
        "kdb_overlay($1, $2, $3, length($2))")                                                               \
    M("overlay", "(text placing text from integer for integer) -> text", "ttii", T_TEXT,                     \
        "kdb_overlay($1, $2, $3, $4)")                                                                       \
    M("btrim", "(text) -> text", "t", T_TEXT, "trim($1)")                                                    \
    M("btrim", "(text, text) -> text", "tt", T_TEXT, "trim($1, $2)")                                         \
    S("ltrim", "(text) -> text", "t", T_TEXT)                                                                \
    S("ltrim", "(text, text) -> text", "tt", T_TEXT)                                                         \
    S("rtrim", "(text) -> text", "t", T_TEXT)                                                                \
    S("rtrim", "(text, text) -> text", "tt", T_TEXT)                                                         \
    M("lpad", "(text, integer) -> text", "ti", T_TEXT, "kdb_pad_left($1, $2, ' ')")                          \
    M("lpad", "(text, integer, text) -> text", "tit", T_TEXT, "kdb_pad_left($1, $2, $3)")                    \
    M("rpad", "(text, integer) -> text", "ti", T_TEXT, "kdb_pad_right($1, $2, ' ')")                         \
    M("rpad", "(text, integer, text) -> text", "tit", T_TEXT, "kdb_pad_right($1, $2, $3)")                   \
    M("left", "(text, integer) -> text", "ti", T_TEXT, "\"left\"($1, $2)")                                   \
    M("right", "(text, integer) -> text", "ti", T_TEXT, "\"right\"($1, $2)")                                 \
    S("repeat", "(text, integer) -> text", "ti", T_TEXT)                                                     \
    S("replace", "(text, text, text) -> text", "ttt", T_TEXT)                                                \
    S("reverse", "(text) -> text", "t", T_TEXT)                                                              \
    S("translate", "(text, text, text) -> text", "ttt", T_TEXT)                                              \
    M("split_part", "(text, text, integer) -> text", "tti", T_TEXT, "kdb_split_part($1, $2, $3)")            \
    S("ascii", "(text) -> integer", "t", T_INT)                                                              \
    M("chr", "(integer) -> text", "i", T_TEXT, "chr(CAST($1 AS INTEGER))")                                   \
    X("concat", "(any, …) -> text", "a*", T_TEXT, 0, NULL, fn_text)                                          \
    X("concat_ws", "(text, any, …) -> text", "ta*", T_TEXT, 0, NULL, fn_text)                                \
    H("format", "(text) -> text", "t", T_TEXT, fn_format)                                                    \
    H("format", "(text, any, …) -> text", "ta*", T_TEXT, fn_format)                                          \
    S("starts_with", "(text, text) -> boolean", "tt", T_BOOL)                                                \
    S("md5", "(text) -> text", "t", T_TEXT)                                                                  \
    M("to_hex", "(bigint) -> text", "i", T_TEXT, "lower(to_hex($1))")                                        \
    M("quote_literal", "(text) -> text", "t", T_TEXT, "kdb_quote_literal($1)")                               \
    M("quote_ident", "(text) -> text", "t", T_TEXT, "kdb_quote_ident($1)")                                   \
    M("string_to_array", "(text, text) -> text[]", "tt", T_ARRAY | T_TEXT, "kdb_string_to_array($1, $2)")    \
    M("array_to_string", "(anyarray, text) -> text", "At", T_TEXT, "kdb_array_to_string($1, $2)")            \
    M("array_to_string", "(anyarray, text, text) -> text", "Att", T_TEXT,                                    \
        "kdb_array_to_string_null($1, $2, $3)")                                                              \
    M("encode", "(bytea, format) -> text", "at", T_TEXT, "kdb_encode($1, $2)")                               \
    M("decode", "(text, format) -> bytea", "tt", T_BLOB, "kdb_decode($1, $2)")                               \
    H("regexp_replace", "(text, pattern, text) -> text", "ttt", T_TEXT, fn_regexp)                           \
    H("regexp_replace", "(text, pattern, text, flags) -> text", "tttt", T_TEXT, fn_regexp)                   \
    H("regexp_match", "(text, pattern) -> text[]", "tt", T_ARRAY | T_TEXT, fn_regexp)                        \
    H("regexp_match", "(text, pattern, flags) -> text[]", "ttt", T_ARRAY | T_TEXT, fn_regexp)                \
    X("regexp_matches", "(text, pattern) -> setof text[]", "tt", T_ARRAY | T_TEXT, FN_SET, NULL, fn_regexp)  \
    X("regexp_matches", "(text, pattern, flags) -> setof text[]", "ttt", T_ARRAY | T_TEXT, FN_SET, NULL,     \
        fn_regexp)                                                                                           \
    H("regexp_like", "(text, pattern) -> boolean", "tt", T_BOOL, fn_regexp)                                  \
    H("regexp_like", "(text, pattern, flags) -> boolean", "ttt", T_BOOL, fn_regexp)                          \
    H("regexp_count", "(text, pattern) -> integer", "tt", T_INT, fn_regexp)                                  \
    H("regexp_substr", "(text, pattern) -> text", "tt", T_TEXT, fn_regexp)                                   \
    M("regexp_split_to_array", "(text, pattern) -> text[]", "tt", T_ARRAY | T_TEXT,                          \
        "regexp_split_to_array($1, $2)")                                                                     \
    R("regexp_split_to_table", "(text, pattern) -> setof text", "tt", T_TEXT,                                \
        "unnest(regexp_split_to_array($1, $2))")                                                             \
    R("string_to_table", "(text, text) -> setof text", "tt", T_TEXT, "unnest(kdb_string_to_array($1, $2))")

#define FN_NUMBER                                                                                            \
    S("abs", "(number) -> same", "n", TYPE_ARG1)                                                             \
    M("ceil", "(number) -> same", "n", TYPE_ARG1, "ceil($1)")                                                \
    M("ceiling", "(number) -> same", "n", TYPE_ARG1, "ceil($1)")                                             \
    S("floor", "(number) -> same", "n", TYPE_ARG1)                                                           \
    H("round", "(number) -> same", "n", TYPE_ARG1, fn_round)                                                 \
    H("round", "(numeric, integer) -> numeric", "ni", T_NUMERIC, fn_round)                                   \
    S("trunc", "(number) -> same", "n", TYPE_ARG1)                                                           \
    M("trunc", "(numeric, integer) -> numeric", "ni", T_NUMERIC, "trunc($1, CAST($2 AS INTEGER))")           \
    S("sign", "(number) -> number", "n", TYPE_ARG1)                                                          \
    S("sqrt", "(number) -> double precision", "n", T_DOUBLE)                                                 \
    S("cbrt", "(number) -> double precision", "n", T_DOUBLE)                                                 \
    S("exp", "(number) -> double precision", "n", T_DOUBLE)                                                  \
    S("ln", "(number) -> double precision", "n", T_DOUBLE)                                                   \
    S("log", "(number) -> double precision", "n", T_DOUBLE)                                                  \
    S("log", "(base, number) -> double precision", "nn", T_DOUBLE)                                           \
    S("log10", "(number) -> double precision", "n", T_DOUBLE)                                                \
    M("power", "(number, number) -> double precision", "nn", T_DOUBLE, "kdb_power($1, $2)")                  \
    M("pow", "(number, number) -> double precision", "nn", T_DOUBLE, "kdb_power($1, $2)")                    \
    M("mod", "(number, number) -> same", "nn", TYPE_COMMON, "kdb_mod($1, $2)")                               \
    M("div", "(number, number) -> numeric", "nn", T_NUMERIC, "trunc(kdb_div($1, $2))")                       \
    S("gcd", "(bigint, bigint) -> bigint", "ii", T_BIGINT)                                                   \
    S("lcm", "(bigint, bigint) -> bigint", "ii", T_BIGINT)                                                   \
    M("factorial", "(bigint) -> numeric", "i", T_NUMERIC, "factorial(CAST($1 AS INTEGER))")                  \
    S("pi", "() -> double precision", "", T_DOUBLE)                                                          \
    S("degrees", "(number) -> double precision", "n", T_DOUBLE)                                              \
    S("radians", "(number) -> double precision", "n", T_DOUBLE)                                              \
    S("sin", "(number) -> double precision", "n", T_DOUBLE)                                                  \
    S("cos", "(number) -> double precision", "n", T_DOUBLE)                                                  \
    S("tan", "(number) -> double precision", "n", T_DOUBLE)                                                  \
    S("cot", "(number) -> double precision", "n", T_DOUBLE)                                                  \
    S("asin", "(number) -> double precision", "n", T_DOUBLE)                                                 \
    S("acos", "(number) -> double precision", "n", T_DOUBLE)                                                 \
    S("atan", "(number) -> double precision", "n", T_DOUBLE)                                                 \
    S("atan2", "(number, number) -> double precision", "nn", T_DOUBLE)                                       \
    S("sinh", "(number) -> double precision", "n", T_DOUBLE)                                                 \
    S("cosh", "(number) -> double precision", "n", T_DOUBLE)                                                 \
    S("tanh", "(number) -> double precision", "n", T_DOUBLE)                                                 \
    S("random", "() -> double precision", "", T_DOUBLE)                                                      \
    M("width_bucket", "(number, low, high, count) -> integer", "nnni", T_INT,                                \
        "kdb_width_bucket($1, $2, $3, $4)")                                                                  \
    M("gen_random_uuid", "() -> uuid", "", T_UUID, "uuid()")

#define FN_TIME                                                                                              \
    H("now", "() -> timestamptz", "", T_TIMESTAMPTZ, fn_now)                                                 \
    H("transaction_timestamp", "() -> timestamptz", "", T_TIMESTAMPTZ, fn_now)                               \
    H("statement_timestamp", "() -> timestamptz", "", T_TIMESTAMPTZ, fn_now)                                 \
    H("clock_timestamp", "() -> timestamptz", "", T_TIMESTAMPTZ, fn_now)                                     \
    H("date_trunc", "(field, timestamp) -> timestamp", "tz", TYPE_ARG2, fn_date_trunc)                       \
    H("date_trunc", "(field, interval) -> interval", "tv", T_INTERVAL, fn_date_trunc)                        \
    H("date_trunc", "(field, timestamptz, zone) -> timestamptz", "tzt", T_TIMESTAMPTZ, fn_date_trunc)        \
    H("date_part", "(field, timestamp or interval) -> double precision", "ta", T_DOUBLE, fn_date_part)       \
    H("extract", "(field from timestamp or interval) -> numeric", "ta", T_NUMERIC, fn_date_part)             \
    M("date_bin", "(interval, timestamp, origin) -> timestamp", "vzz", TYPE_ARG2, "time_bucket($1, $2, $3)") \
    H("age", "(timestamp) -> interval", "z", T_INTERVAL, fn_age)                                             \
    H("age", "(timestamp, timestamp) -> interval", "zz", T_INTERVAL, fn_age)                                 \
    S("make_date", "(year, month, day) -> date", "iii", T_DATE)                                              \
    S("make_timestamp", "(year, month, day, hour, minute, second) -> timestamp", "iiiiin", T_TIMESTAMP)      \
    M("make_timestamptz", "(year, month, day, hour, minute, second) -> timestamptz", "iiiiin",               \
        T_TIMESTAMPTZ, "CAST(make_timestamp($*) AS TIMESTAMPTZ)")                                            \
    S("make_time", "(hour, minute, second) -> time", "iin", T_TIME)                                          \
    M("to_timestamp", "(seconds) -> timestamptz", "n", T_TIMESTAMPTZ, "to_timestamp(CAST($1 AS DOUBLE))")    \
    H("to_timestamp", "(text, pattern) -> timestamptz", "tt", T_TIMESTAMPTZ, fn_to_time)                     \
    H("to_date", "(text, pattern) -> date", "tt", T_DATE, fn_to_time)                                        \
    H("to_char", "(timestamp or number, pattern) -> text", "at", T_TEXT, fn_to_char)                         \
    H("timezone", "(zone, timestamp) -> timestamptz, or back", "tz", T_ANY, fn_timezone)                     \
    M("isfinite", "(timestamp) -> boolean", "z", T_BOOL, "isfinite($1)")                                     \
    M("justify_days", "(interval) -> interval", "v", T_INTERVAL, "kdb_justify_days($1)")                     \
    M("justify_hours", "(interval) -> interval", "v", T_INTERVAL, "kdb_justify_hours($1)")                   \
    M("overlaps", "(start, end) overlaps (start, end) -> boolean", "zzzz", T_BOOL,                           \
        "kdb_overlaps($1, $2, $3, $4)")

#define FN_JSON                                                                                              \
    H("to_json", "(any) -> json", "a", T_JSON, fn_json_build)                                                \
    H("to_jsonb", "(any) -> jsonb", "a", T_JSON, fn_json_build)                                              \
    H("row_to_json", "(record) -> json", "a", T_JSON, fn_json_build)                                         \
    H("array_to_json", "(anyarray) -> json", "a", T_JSON, fn_json_build)                                     \
    H("json_build_object", "() -> json", "", T_JSON, fn_json_build)                                          \
    H("json_build_object", "(key, value, …) -> json", "a*", T_JSON, fn_json_build)                           \
    H("jsonb_build_object", "() -> jsonb", "", T_JSON, fn_json_build)                                        \
    H("jsonb_build_object", "(key, value, …) -> jsonb", "a*", T_JSON, fn_json_build)                         \
    H("json_build_array", "() -> json", "", T_JSON, fn_json_build)                                           \
    H("json_build_array", "(value, …) -> json", "a*", T_JSON, fn_json_build)                                 \
    H("jsonb_build_array", "() -> jsonb", "", T_JSON, fn_json_build)                                         \
    H("jsonb_build_array", "(value, …) -> jsonb", "a*", T_JSON, fn_json_build)                               \
    M("json_array_length", "(json) -> integer", "j", T_INT, "kdb_json_array_length($1)")                     \
    M("jsonb_array_length", "(jsonb) -> integer", "j", T_INT, "kdb_json_array_length($1)")                   \
    M("json_typeof", "(json) -> text", "j", T_TEXT, "kdb_json_typeof($1)")                                   \
    M("jsonb_typeof", "(jsonb) -> text", "j", T_TEXT, "kdb_json_typeof($1)")                                 \
    H("json_extract_path", "(json, key, …) -> json", "jt*", T_JSON, fn_json_path)                            \
    H("jsonb_extract_path", "(jsonb, key, …) -> jsonb", "jt*", T_JSON, fn_json_path)                         \
    H("json_extract_path_text", "(json, key, …) -> text", "jt*", T_TEXT, fn_json_path)                       \
    H("jsonb_extract_path_text", "(jsonb, key, …) -> text", "jt*", T_TEXT, fn_json_path)                     \
    H("jsonb_set", "(jsonb, path, value) -> jsonb", "jtj", T_JSON, fn_json_set)                              \
    R("json_array_elements", "(json) -> setof json", "j", T_JSON, "unnest(kdb_json_elements($1))")           \
    R("jsonb_array_elements", "(jsonb) -> setof jsonb", "j", T_JSON, "unnest(kdb_json_elements($1))")        \
    R("json_array_elements_text", "(json) -> setof text", "j", T_TEXT, "unnest(kdb_json_texts($1))")         \
    R("jsonb_array_elements_text", "(jsonb) -> setof text", "j", T_TEXT, "unnest(kdb_json_texts($1))")       \
    R("json_object_keys", "(json) -> setof text", "j", T_TEXT, "unnest(json_keys($1))")                      \
    R("jsonb_object_keys", "(jsonb) -> setof text", "j", T_TEXT, "unnest(json_keys($1))")                    \
    R("json_each", "(json) -> setof (key, value)", "j", T_RECORD, "unnest(json_keys($1))")                   \
    R("jsonb_each", "(jsonb) -> setof (key, value)", "j", T_RECORD, "unnest(json_keys($1))")                 \
    R("json_each_text", "(json) -> setof (key, value)", "j", T_RECORD, "unnest(json_keys($1))")              \
    R("jsonb_each_text", "(jsonb) -> setof (key, value)", "j", T_RECORD, "unnest(json_keys($1))")            \
    X("json_agg", "(any) -> json", "a", T_JSON, FN_AGGREGATE, NULL, fn_json_agg)                             \
    X("jsonb_agg", "(any) -> jsonb", "a", T_JSON, FN_AGGREGATE, NULL, fn_json_agg)                           \
    X("json_object_agg", "(key, value) -> json", "aa", T_JSON, FN_AGGREGATE, NULL, fn_json_agg)              \
    X("jsonb_object_agg", "(key, value) -> jsonb", "aa", T_JSON, FN_AGGREGATE, NULL, fn_json_agg)            \
    S("json_extract", "(json, path) -> json", "at", T_JSON)                                                  \
    S("json_extract_string", "(json, path) -> text", "at", T_TEXT)                                           \
    S("json_type", "(json) -> text", "a", T_TEXT)                                                            \
    S("json_valid", "(text) -> boolean", "a", T_BOOL)                                                        \
    S("json_keys", "(json) -> text[]", "a", T_ARRAY | T_TEXT)                                                \
    S("json_exists", "(json, path) -> boolean", "at", T_BOOL)                                                \
    S("json_merge_patch", "(json, json) -> json", "aa", T_JSON)                                              \
    S("json_object", "(key, value, …) -> json", "a*", T_JSON)                                                \
    S("json_array", "(value, …) -> json", "a*", T_JSON)                                                      \
    S("json_quote", "(any) -> json", "a", T_JSON)

#define FN_AGGREGATES                                                                                        \
    GM("count", "(*) -> bigint", "", T_BIGINT, "count(*)$F$W")                                               \
    G("count", "(any) -> bigint", "a", T_BIGINT)                                                             \
    GM("sum", "(number) -> bigint, numeric or double precision", "n", TYPE_SUM1, NULL)                       \
    GM("avg", "(number) -> double precision", "n", TYPE_AVG1, "avg($D$1$O)$F$W")                             \
    G("min", "(any) -> same", "a", TYPE_ARG1)                                                                \
    G("max", "(any) -> same", "a", TYPE_ARG1)                                                                \
    X("string_agg", "(text, text) -> text", "tt", T_TEXT, FN_AGGREGATE, NULL, fn_string_agg)                 \
    GM("array_agg", "(any) -> array", "a", TYPE_ARRAY1, "list($D$1$O)$F$W")                                  \
    G("bool_and", "(boolean) -> boolean", "b", T_BOOL)                                                       \
    G("bool_or", "(boolean) -> boolean", "b", T_BOOL)                                                        \
    GM("every", "(boolean) -> boolean", "b", T_BOOL, "bool_and($D$1$O)$F$W")                                 \
    G("bit_and", "(bigint) -> bigint", "i", TYPE_ARG1)                                                       \
    G("bit_or", "(bigint) -> bigint", "i", TYPE_ARG1)                                                        \
    G("bit_xor", "(bigint) -> bigint", "i", TYPE_ARG1)                                                       \
    G("stddev", "(number) -> double precision", "n", T_NUMERIC)                                              \
    G("stddev_samp", "(number) -> double precision", "n", T_NUMERIC)                                         \
    G("stddev_pop", "(number) -> double precision", "n", T_NUMERIC)                                          \
    G("variance", "(number) -> double precision", "n", T_NUMERIC)                                            \
    G("var_samp", "(number) -> double precision", "n", T_NUMERIC)                                            \
    G("var_pop", "(number) -> double precision", "n", T_NUMERIC)                                             \
    G("corr", "(number, number) -> double precision", "nn", T_DOUBLE)                                        \
    G("covar_pop", "(number, number) -> double precision", "nn", T_DOUBLE)                                   \
    G("covar_samp", "(number, number) -> double precision", "nn", T_DOUBLE)                                  \
    G("regr_slope", "(y, x) -> double precision", "nn", T_DOUBLE)                                            \
    G("regr_intercept", "(y, x) -> double precision", "nn", T_DOUBLE)                                        \
    G("regr_r2", "(y, x) -> double precision", "nn", T_DOUBLE)                                               \
    G("regr_count", "(y, x) -> bigint", "nn", T_BIGINT)                                                      \
    G("regr_avgx", "(y, x) -> double precision", "nn", T_DOUBLE)                                             \
    G("regr_avgy", "(y, x) -> double precision", "nn", T_DOUBLE)                                             \
    X("percentile_cont", "(fraction) within group (order by number) -> double precision", "n", T_DOUBLE,     \
        FN_AGGREGATE | FN_ORDERED, "percentile_cont($1) WITHIN GROUP ($O)$F", NULL)                          \
    X("percentile_disc", "(fraction) within group (order by any) -> same", "n", T_ANY,                       \
        FN_AGGREGATE | FN_ORDERED, "percentile_disc($1) WITHIN GROUP ($O)$F", NULL)                          \
    X("mode", "() within group (order by any) -> same", "", T_ANY, FN_AGGREGATE | FN_ORDERED,                \
        "mode() WITHIN GROUP ($O)$F", NULL)                                                                  \
    W("row_number", "() -> bigint", "", T_BIGINT)                                                            \
    W("rank", "() -> bigint", "", T_BIGINT)                                                                  \
    W("dense_rank", "() -> bigint", "", T_BIGINT)                                                            \
    W("percent_rank", "() -> double precision", "", T_DOUBLE)                                                \
    W("cume_dist", "() -> double precision", "", T_DOUBLE)                                                   \
    W("ntile", "(integer) -> integer", "i", T_INT)                                                           \
    W("lag", "(any) -> same", "a", TYPE_ARG1)                                                                \
    W("lag", "(any, offset) -> same", "ai", TYPE_ARG1)                                                       \
    W("lag", "(any, offset, default) -> same", "aia", TYPE_ARG1)                                             \
    W("lead", "(any) -> same", "a", TYPE_ARG1)                                                               \
    W("lead", "(any, offset) -> same", "ai", TYPE_ARG1)                                                      \
    W("lead", "(any, offset, default) -> same", "aia", TYPE_ARG1)                                            \
    W("first_value", "(any) -> same", "a", TYPE_ARG1)                                                        \
    W("last_value", "(any) -> same", "a", TYPE_ARG1)                                                         \
    W("nth_value", "(any, integer) -> same", "ai", TYPE_ARG1)                                                \
    G("any_value", "(any) -> same", "a", TYPE_ARG1)                                                          \
    G("approx_count_distinct", "(any) -> bigint", "a", T_BIGINT)                                             \
    G("arg_max", "(any, any) -> first", "aa", TYPE_ARG1)                                                     \
    G("arg_min", "(any, any) -> first", "aa", TYPE_ARG1)                                                     \
    G("max_by", "(any, any) -> first", "aa", TYPE_ARG1)                                                      \
    G("min_by", "(any, any) -> first", "aa", TYPE_ARG1)                                                      \
    G("median", "(number) -> double precision", "n", T_DOUBLE)                                               \
    G("quantile_cont", "(number, fraction) -> double precision", "nn", T_DOUBLE)                             \
    G("quantile_disc", "(any, fraction) -> same", "an", TYPE_ARG1)                                           \
    G("first", "(any) -> same", "a", TYPE_ARG1)                                                              \
    G("last", "(any) -> same", "a", TYPE_ARG1)                                                               \
    G("list", "(any) -> array", "a", TYPE_ARRAY1)                                                            \
    G("product", "(number) -> double precision", "n", T_DOUBLE)                                              \
    G("entropy", "(any) -> double precision", "a", T_DOUBLE)                                                 \
    G("kurtosis", "(number) -> double precision", "n", T_DOUBLE)                                             \
    G("skewness", "(number) -> double precision", "n", T_DOUBLE)                                             \
    G("mad", "(any) -> any", "a", T_ANY)

#define FN_ARRAYS                                                                                            \
    M("array_length", "(anyarray, 1) -> integer", "Ai", T_INT, "kdb_array_length($1, $2)")                   \
    M("array_upper", "(anyarray, 1) -> integer", "Ai", T_INT, "kdb_array_length($1, $2)")                    \
    M("cardinality", "(anyarray) -> integer", "A", T_INT, "len($1)")                                         \
    M("array_append", "(anyarray, any) -> anyarray", "Aa", TYPE_ARG1, "list_append($1, $2)")                 \
    M("array_prepend", "(any, anyarray) -> anyarray", "aA", TYPE_ARG2, "list_prepend($1, $2)")               \
    M("array_cat", "(anyarray, anyarray) -> anyarray", "AA", TYPE_ARG1, "list_concat($1, $2)")               \
    M("array_position", "(anyarray, any) -> integer", "Aa", T_INT, "list_position($1, $2)")                  \
    M("array_remove", "(anyarray, any) -> anyarray", "Aa", TYPE_ARG1, "kdb_array_remove($1, $2)")            \
    R("unnest", "(anyarray) -> setof element", "A", TYPE_ELEMENT1, "unnest($1)")                             \
    R("generate_series", "(bigint, bigint) -> setof bigint", "ii", TYPE_COMMON,                              \
        "unnest(generate_series($1, $2))")                                                                   \
    R("generate_series", "(bigint, bigint, step) -> setof bigint", "iii", TYPE_COMMON,                       \
        "unnest(kdb_series($1, $2, $3))")                                                                    \
    R("generate_series", "(timestamp, timestamp, interval) -> setof timestamp", "zzv", TYPE_COMMON,          \
        "unnest(generate_series($1, $2, $3))")                                                               \
    R("generate_subscripts", "(anyarray, 1) -> setof integer", "Ai", T_INT,                                  \
        "unnest(generate_series(1, len($1)))")                                                               \
    S("len", "(array) -> bigint", "A", T_BIGINT)                                                             \
    S("list_contains", "(array, any) -> boolean", "Aa", T_BOOL)                                              \
    S("list_distinct", "(array) -> array", "A", TYPE_ARG1)                                                   \
    S("list_sort", "(array) -> array", "A", TYPE_ARG1)                                                       \
    S("list_reverse", "(array) -> array", "A", TYPE_ARG1)                                                    \
    S("list_sum", "(array) -> number", "A", T_ANY)                                                           \
    S("list_avg", "(array) -> double precision", "A", T_DOUBLE)                                              \
    S("list_min", "(array) -> element", "A", TYPE_ELEMENT1)                                                  \
    S("list_max", "(array) -> element", "A", TYPE_ELEMENT1)                                                  \
    S("list_has_any", "(array, array) -> boolean", "AA", T_BOOL)                                             \
    S("list_has_all", "(array, array) -> boolean", "AA", T_BOOL)                                             \
    S("range", "(bigint) -> bigint[]", "i", T_ARRAY | T_BIGINT)                                              \
    S("range", "(bigint, bigint) -> bigint[]", "ii", T_ARRAY | T_BIGINT)

#define FN_DUCKDB                                                                                            \
    S("contains", "(text, text) -> boolean", "tt", T_BOOL)                                                   \
    S("ends_with", "(text, text) -> boolean", "tt", T_BOOL)                                                  \
    S("prefix", "(text, text) -> boolean", "tt", T_BOOL)                                                     \
    S("suffix", "(text, text) -> boolean", "tt", T_BOOL)                                                     \
    S("instr", "(text, text) -> bigint", "tt", T_BIGINT)                                                     \
    S("strlen", "(text) -> bigint", "t", T_BIGINT)                                                           \
    S("length_grapheme", "(text) -> bigint", "t", T_BIGINT)                                                  \
    M("trim", "(text) -> text", "t", T_TEXT, "trim($1)")                                                     \
    S("string_split", "(text, text) -> text[]", "tt", T_ARRAY | T_TEXT)                                      \
    S("regexp_extract", "(text, pattern) -> text", "tt", T_TEXT)                                             \
    S("regexp_extract", "(text, pattern, group) -> text", "tti", T_TEXT)                                     \
    S("regexp_extract_all", "(text, pattern) -> text[]", "tt", T_ARRAY | T_TEXT)                             \
    S("regexp_full_match", "(text, pattern) -> boolean", "tt", T_BOOL)                                       \
    S("regexp_escape", "(text) -> text", "t", T_TEXT)                                                        \
    S("strip_accents", "(text) -> text", "t", T_TEXT)                                                        \
    S("levenshtein", "(text, text) -> bigint", "tt", T_BIGINT)                                               \
    S("damerau_levenshtein", "(text, text) -> bigint", "tt", T_BIGINT)                                       \
    S("hamming", "(text, text) -> bigint", "tt", T_BIGINT)                                                   \
    S("jaccard", "(text, text) -> double precision", "tt", T_DOUBLE)                                         \
    S("jaro_similarity", "(text, text) -> double precision", "tt", T_DOUBLE)                                 \
    S("jaro_winkler_similarity", "(text, text) -> double precision", "tt", T_DOUBLE)                         \
    S("sha1", "(text) -> text", "t", T_TEXT)                                                                 \
    S("sha256", "(text) -> text", "t", T_TEXT)                                                               \
    S("hash", "(any) -> numeric", "a", T_NUMERIC)                                                            \
    S("hex", "(text) -> text", "a", T_TEXT)                                                                  \
    S("unhex", "(text) -> bytea", "t", T_BLOB)                                                               \
    S("base64", "(bytea) -> text", "a", T_TEXT)                                                              \
    S("from_base64", "(text) -> bytea", "t", T_BLOB)                                                         \
    S("url_encode", "(text) -> text", "t", T_TEXT)                                                           \
    S("url_decode", "(text) -> text", "t", T_TEXT)                                                           \
    S("unicode", "(text) -> integer", "t", T_INT)                                                            \
    S("nfc_normalize", "(text) -> text", "t", T_TEXT)                                                        \
    S("format_bytes", "(bigint) -> text", "i", T_TEXT)                                                       \
    S("log2", "(number) -> double precision", "n", T_DOUBLE)                                                 \
    S("round_even", "(number, integer) -> double precision", "ni", T_DOUBLE)                                 \
    S("isnan", "(double precision) -> boolean", "n", T_BOOL)                                                 \
    S("isinf", "(double precision) -> boolean", "n", T_BOOL)                                                 \
    S("xor", "(bigint, bigint) -> bigint", "ii", TYPE_COMMON)                                                \
    S("bit_count", "(bigint) -> integer", "i", T_INT)                                                        \
    S("date_diff", "(part, start, end) -> bigint", "tzz", T_BIGINT)                                          \
    S("datediff", "(part, start, end) -> bigint", "tzz", T_BIGINT)                                           \
    S("date_sub", "(part, start, end) -> bigint", "tzz", T_BIGINT)                                           \
    S("time_bucket", "(interval, timestamp) -> timestamp", "vz", TYPE_ARG2)                                  \
    S("last_day", "(date) -> date", "z", T_DATE)                                                             \
    S("dayname", "(date) -> text", "z", T_TEXT)                                                              \
    S("monthname", "(date) -> text", "z", T_TEXT)                                                            \
    S("strftime", "(timestamp, format) -> text", "zt", T_TEXT)                                               \
    S("strptime", "(text, format) -> timestamp", "tt", T_TIMESTAMP)                                          \
    S("epoch", "(timestamp) -> double precision", "a", T_DOUBLE)                                             \
    S("epoch_ms", "(timestamp) -> bigint", "z", T_BIGINT)                                                    \
    S("epoch_us", "(timestamp) -> bigint", "z", T_BIGINT)                                                    \
    S("year", "(date) -> bigint", "z", T_BIGINT)                                                             \
    S("quarter", "(date) -> bigint", "z", T_BIGINT)                                                          \
    S("month", "(date) -> bigint", "z", T_BIGINT)                                                            \
    S("week", "(date) -> bigint", "z", T_BIGINT)                                                             \
    S("day", "(date) -> bigint", "z", T_BIGINT)                                                              \
    S("dayofweek", "(date) -> bigint", "z", T_BIGINT)                                                        \
    S("dayofyear", "(date) -> bigint", "z", T_BIGINT)                                                        \
    S("hour", "(timestamp) -> bigint", "z", T_BIGINT)                                                        \
    S("minute", "(timestamp) -> bigint", "z", T_BIGINT)                                                      \
    S("second", "(timestamp) -> bigint", "z", T_BIGINT)                                                      \
    M("ifnull", "(any, any) -> same", "aa", TYPE_COMMON, "COALESCE($1, $2)")

/* clang-format on */
#define FN_LIST FN_TEXT FN_NUMBER FN_TIME FN_JSON FN_AGGREGATES FN_ARRAYS FN_DUCKDB

const struct fn fn_table[] = {
#define X(n, s, a, t, f, x, h) {.name = n, .args = a, .type = t, .flags = f, .text = x, .special = h},
    FN_LIST
#undef X
    {.name = NULL}};

const struct sql_function sql_functions[] = {
#define X(n, s, a, t, f, x, h) {.name = n, .signature = s},
    FN_LIST
#undef X
    {.name = NULL}};
