#include "net/http.h"
#include <time.h>

enum { SPAN_NONE, SPAN_NAME, SPAN_VALUE };

void http_message_init(struct http_message *m)
{
    *m = (struct http_message){.head.max_bytes = HTTP_HEAD_BYTES_MAX};
}

void http_message_clear(struct http_message *m)
{
    buf_clear(&m->head);
    buf_clear(&m->body);
    m->target_len = m->nheaders = 0;
    m->headers_done = m->keep_alive = m->expects_continue = m->websocket = false;
}

void http_message_release(struct http_message *m)
{
    buf_release(&m->head);
    buf_release(&m->body);
}

struct str http_message_target(const struct http_message *m)
{
    return str_n(m->head.ptr, m->target_len);
}

static struct str header_name(const struct http_message *m, int i)
{
    return str_n(m->head.ptr + m->headers[i].name, m->headers[i].name_len);
}

static struct str header_value(const struct http_message *m, int i)
{
    return str_n(m->head.ptr + m->headers[i].value, m->headers[i].value_len);
}

struct str http_message_header(const struct http_message *m, struct str name)
{
    for (int i = 0; i < m->nheaders; i++) {
        if (m->headers[i].name_len == name.len && str_ieq(header_name(m, i), name))
            return header_value(m, i);
    }
    return STR_NULL;
}

static int fail(struct http_parser *p, enum http_failure failure, const char *why)
{
    if (p->failure == HTTP_OK) {
        p->failure = failure;
        p->why = why;
    }
    return HPE_USER;
}

static struct http_parser *parser_of(llhttp_t *ll)
{
    return ll->data;
}

static int head_append(struct http_parser *p, const char *at, size_t n)
{
    struct http_message *m = p->message;
    if (m->head.len + n > HTTP_HEAD_BYTES_MAX)
        return fail(p, HTTP_HEAD_TOO_LARGE, "request header fields are too large");
    buf_append(&m->head, at, n);
    return m->head.failed ? fail(p, HTTP_OVERLOADED, "out of memory") : 0;
}

static int on_begin(llhttp_t *ll)
{
    parser_of(ll)->begun = true;
    return 0;
}

static int on_url(llhttp_t *ll, const char *at, size_t n)
{
    struct http_parser *p = parser_of(ll);
    p->begun = true;
    if (p->message->target_len + n > HTTP_HEAD_BYTES_MAX / 2)
        return fail(p, HTTP_URI_TOO_LONG, "request target is too long");
    int rc = head_append(p, at, n);
    if (rc == 0)
        p->message->target_len = (uint16_t)(p->message->target_len + n);
    return rc;
}

static int on_field(llhttp_t *ll, const char *at, size_t n)
{
    struct http_parser *p = parser_of(ll);
    struct http_message *m = p->message;
    if (m->headers_done) /* trailers: checked by llhttp, not kept */
        return 0;
    if (p->span != SPAN_NAME) {
        if (m->nheaders == HTTP_HEADERS_MAX)
            return fail(p, HTTP_HEAD_TOO_LARGE, "too many header fields");
        m->headers[m->nheaders++] = (struct http_header){.name = (uint16_t)m->head.len};
        p->span = SPAN_NAME;
    }
    int rc = head_append(p, at, n);
    if (rc == 0)
        m->headers[m->nheaders - 1].name_len = (uint16_t)(m->headers[m->nheaders - 1].name_len + n);
    return rc;
}

static int on_value(llhttp_t *ll, const char *at, size_t n)
{
    struct http_parser *p = parser_of(ll);
    struct http_message *m = p->message;
    if (m->headers_done)
        return 0;
    if (m->nheaders == 0)
        return fail(p, HTTP_BAD_REQUEST, "malformed header field");
    struct http_header *h = &m->headers[m->nheaders - 1];
    if (p->span != SPAN_VALUE) {
        h->value = (uint16_t)m->head.len;
        p->span = SPAN_VALUE;
    }
    int rc = head_append(p, at, n);
    if (rc == 0)
        h->value_len = (uint16_t)(h->value_len + n);
    return rc;
}

static enum http_method method_of(uint8_t ll_method)
{
    switch (ll_method) {
    case HTTP_GET:
        return HTTP_M_GET;
    case HTTP_HEAD:
        return HTTP_M_HEAD;
    case HTTP_POST:
        return HTTP_M_POST;
    case HTTP_PUT:
        return HTTP_M_PUT;
    case HTTP_DELETE:
        return HTTP_M_DELETE;
    case HTTP_OPTIONS:
        return HTTP_M_OPTIONS;
    default:
        return HTTP_M_OTHER;
    }
}

/* Values lose outer white space; the checks that need one look at every header. */
static int check_headers(struct http_parser *p, struct http_message *m)
{
    int hosts = 0;
    bool coded = false;
    for (int i = 0; i < m->nheaders; i++) {
        struct str raw = header_value(m, i), value = str_trim(raw), name = header_name(m, i);
        if (raw.len > 0) {
            m->headers[i].value = (uint16_t)(value.len > 0 ? value.ptr - m->head.ptr : m->headers[i].value);
            m->headers[i].value_len = (uint16_t)value.len;
        }
        if (name.len == 4 && str_ieq(name, STR("host"))) {
            hosts++;
        } else if (name.len == 17 && str_ieq(name, STR("transfer-encoding"))) {
            if (coded || m->minor == 0)
                return fail(p, HTTP_BAD_REQUEST, "bad Transfer-Encoding");
            if (!str_ieq(value, STR("chunked")))
                return fail(p, HTTP_NOT_IMPLEMENTED, "transfer codings other than chunked are not accepted");
            coded = true;
        } else if (name.len == 16 && str_ieq(name, STR("content-encoding"))) {
            /* Nothing is unpacked here, so no few bytes can become many. */
            if (value.len > 0 && !str_ieq(value, STR("identity")))
                return fail(p, HTTP_UNSUPPORTED_MEDIA, "send the body without a Content-Encoding");
        } else if (name.len == 6 && str_ieq(name, STR("expect"))) {
            if (!str_ieq(value, STR("100-continue")))
                return fail(p, HTTP_EXPECTATION_FAILED, "unknown expectation");
            m->expects_continue = m->minor > 0;
        } else if (name.len == 7 && str_ieq(name, STR("upgrade"))) {
            m->websocket = str_ieq(value, STR("websocket"));
        }
    }
    if (hosts > 1 || (hosts == 0 && m->minor > 0))
        return fail(p, HTTP_BAD_REQUEST, hosts > 1 ? "more than one Host" : "Host is missing");
    return 0;
}

static int on_headers_complete(llhttp_t *ll)
{
    struct http_parser *p = parser_of(ll);
    struct http_message *m = p->message;
    if (ll->http_major != 1 || ll->http_minor > 1)
        return fail(p, HTTP_VERSION_UNSUPPORTED, "HTTP/1.1 or HTTP/1.0, please");
    m->minor = ll->http_minor;
    m->method = (uint8_t)method_of(ll->method);
    m->keep_alive = llhttp_should_keep_alive(ll) != 0;
    int rc = check_headers(p, m);
    if (rc != 0)
        return rc;
    p->hand_out = false;
    p->body_bytes = 0;
    if (!p->ask && !http_parser_body(p, p->max_body_bytes, false))
        return fail(p, HTTP_BODY_TOO_LARGE, "request body is too large");
    bool has_body = (ll->flags & F_CHUNKED) != 0 || ll->content_length > 0;
    /* Other upgrades (h2c) are not taken: the request is answered as it stands. */
    m->websocket = m->websocket && ll->upgrade && m->method == HTTP_M_GET && m->minor == 1 && !has_body;
    ll->upgrade = m->websocket;
    if (!has_body)
        m->expects_continue = false;
    m->headers_done = true;
    if (!p->ask || !has_body)
        return 0;
    p->stopped = HTTP_HEAD_READ;
    return HPE_PAUSED;
}

bool http_parser_body(struct http_parser *p, uint64_t max_bytes, bool hand_out)
{
    if ((p->ll.flags & F_CONTENT_LENGTH) != 0 && p->ll.content_length > max_bytes)
        return false;
    p->body_max = max_bytes;
    p->hand_out = hand_out;
    return true;
}

/* Chunked: what came since the last byte of the body is framing. llhttp takes extensions and trailers of any
 * length; without this a request could be sent for ever without bringing anything. */
static bool framing_fits(struct http_parser *p, const char *to)
{
    if (p->framed_to == NULL || (p->ll.flags & F_CHUNKED) == 0)
        return true;
    size_t n = (size_t)(to - p->framed_to);
    p->framed_to = to;
    if (n > HTTP_FRAMING_BYTES_MAX - p->framing_bytes)
        return false;
    p->framing_bytes += (uint32_t)n;
    return true;
}

static int on_body(llhttp_t *ll, const char *at, size_t n)
{
    struct http_parser *p = parser_of(ll);
    struct http_message *m = p->message;
    if (n == 0) /* fed with nothing in the middle of a span */
        return 0;
    if (!framing_fits(p, at))
        return fail(p, HTTP_HEAD_TOO_LARGE, "chunk extensions are too large");
    p->framing_bytes = 0;
    if (p->framed_to != NULL)
        p->framed_to = at + n;
    if (n > p->body_max - p->body_bytes)
        return fail(p, HTTP_BODY_TOO_LARGE, "request body is too large");
    p->body_bytes += n;
    if (p->hand_out) {
        p->piece = str_n(at, n);
        p->stopped = HTTP_BODY_PIECE;
        return HPE_PAUSED;
    }
    if (m->body.len == 0 && ll->content_length > 0 && (ll->flags & F_CHUNKED) == 0 &&
        n < ll->content_length) {
        /* One growth, but not on the word of a header alone: at most 64 KiB ahead of what came. */
        size_t ahead = (size_t)ll->content_length < n + 65536 ? (size_t)ll->content_length : n + 65536;
        (void)buf_reserve(&m->body, ahead);
    }
    buf_append(&m->body, at, n);
    return m->body.failed ? fail(p, HTTP_OVERLOADED, "out of memory") : 0;
}

static int on_complete(llhttp_t *ll)
{
    parser_of(ll)->stopped = HTTP_MESSAGE;
    return HPE_PAUSED;
}

static const llhttp_settings_t settings = {
    .on_message_begin = on_begin,
    .on_url = on_url,
    .on_header_field = on_field,
    .on_header_value = on_value,
    .on_headers_complete = on_headers_complete,
    .on_body = on_body,
    .on_message_complete = on_complete,
};

void http_parser_init(struct http_parser *p, size_t max_body_bytes)
{
    *p = (struct http_parser){.max_body_bytes = max_body_bytes};
    llhttp_init(&p->ll, HTTP_REQUEST, &settings);
    p->ll.data = p;
}

static const char *error_text(llhttp_errno_t e)
{
    switch (e) {
    case HPE_UNEXPECTED_CONTENT_LENGTH:
    case HPE_INVALID_CONTENT_LENGTH:
        return "bad Content-Length";
    case HPE_INVALID_TRANSFER_ENCODING:
        return "bad Transfer-Encoding";
    case HPE_INVALID_CHUNK_SIZE:
        return "bad chunk";
    case HPE_INVALID_METHOD:
        return "unknown method";
    case HPE_INVALID_VERSION:
    case HPE_PAUSED_H2_UPGRADE:
        return "HTTP/1.1 or HTTP/1.0, please";
    case HPE_INVALID_HEADER_TOKEN:
        return "malformed header field";
    default:
        return "malformed request";
    }
}

/* The lines of the head as they stand, which llhttp's spans no longer show. NULL: fine so far. */
static const char *look_at_lines(struct http_parser *p, const char *data, size_t n)
{
    for (size_t i = 0; i < n && !p->head_seen;) {
        if (p->line_bytes == 0 && p->lines > 0 && (data[i] == ' ' || data[i] == '\t'))
            return "folded header lines are not accepted";
        if (p->line_bytes == 0 && p->lines > 0 && data[i] == ':')
            return "malformed header field";
        const char *lf = memchr(data + i, '\n', n - i);
        size_t end = lf != NULL ? (size_t)(lf - data) : n;
        if (end > i)
            p->last_byte = data[end - 1];
        p->line_bytes += (uint32_t)(end - i < HTTP_HEAD_BYTES_MAX ? end - i : HTTP_HEAD_BYTES_MAX);
        if (lf == NULL)
            return NULL;
        if (p->line_bytes == 0 || p->last_byte != '\r')
            return "lines end in CR LF";
        if (p->line_bytes > 1)
            p->lines++;
        else
            p->head_seen = p->lines > 0;
        /* RFC 9112, 2.2: blank lines before a request are allowed, which needs no flood of them. */
        if (p->lines == 0 && ++p->blank_lines > HTTP_BLANK_LINES_MAX)
            return "too many blank lines";
        p->line_bytes = 0;
        i = end + 1;
        if (p->head_seen)
            p->framed_to = data + i;
    }
    return NULL;
}

enum http_progress http_parser_feed(struct http_parser *p, const char *data, size_t n, size_t *ret_used)
{
    *ret_used = n;
    if (p->failure != HTTP_OK)
        return HTTP_FAILED;
    p->framed_to = p->head_seen ? data : NULL;
    const char *bad_line = look_at_lines(p, data, n);
    if (bad_line != NULL) {
        fail(p, HTTP_BAD_REQUEST, bad_line);
        return HTTP_FAILED;
    }
    llhttp_errno_t e = llhttp_execute(&p->ll, data, n);
    if (e == HPE_OK && framing_fits(p, data + n))
        return HTTP_MORE;
    if (p->failure == HTTP_OK && (e == HPE_PAUSED || e == HPE_PAUSED_UPGRADE)) {
        const char *at = llhttp_get_error_pos(&p->ll);
        *ret_used = at != NULL && at >= data && at <= data + n ? (size_t)(at - data) : n;
        if (p->stopped == HTTP_MESSAGE && !framing_fits(p, data + *ret_used)) {
            fail(p, HTTP_HEAD_TOO_LARGE, "trailers are too large");
            return HTTP_FAILED;
        }
        if (e == HPE_PAUSED)
            llhttp_resume(&p->ll);
        if (p->stopped == HTTP_MESSAGE) {
            p->begun = p->head_seen = false;
            p->framing_bytes = 0;
            p->line_bytes = p->lines = p->blank_lines = 0;
            p->span = SPAN_NONE;
        }
        return p->stopped;
    }
    if (e == HPE_OK)
        fail(p, HTTP_HEAD_TOO_LARGE, "chunk extensions or trailers are too large");
    bool version = e == HPE_INVALID_VERSION || e == HPE_PAUSED_H2_UPGRADE;
    fail(p, version ? HTTP_VERSION_UNSUPPORTED : HTTP_BAD_REQUEST, error_text(e));
    return HTTP_FAILED;
}

const char *http_reason(int status)
{
    switch (status) {
    case 200:
        return "OK";
    case 201:
        return "Created";
    case 204:
        return "No Content";
    case 206:
        return "Partial Content";
    case 304:
        return "Not Modified";
    case 400:
        return "Bad Request";
    case 401:
        return "Unauthorized";
    case 403:
        return "Forbidden";
    case 404:
        return "Not Found";
    case 405:
        return "Method Not Allowed";
    case 408:
        return "Request Timeout";
    case 409:
        return "Conflict";
    case 412:
        return "Precondition Failed";
    case 413:
        return "Content Too Large";
    case 414:
        return "URI Too Long";
    case 415:
        return "Unsupported Media Type";
    case 416:
        return "Range Not Satisfiable";
    case 417:
        return "Expectation Failed";
    case 426:
        return "Upgrade Required";
    case 429:
        return "Too Many Requests";
    case 431:
        return "Request Header Fields Too Large";
    case 500:
        return "Internal Server Error";
    case 501:
        return "Not Implemented";
    case 503:
        return "Service Unavailable";
    case 505:
        return "HTTP Version Not Supported";
    default:
        return "Status";
    }
}

void http_date(int64_t unix_s, char ret[30])
{
    struct tm tm;
    time_t t = (time_t)unix_s;
    gmtime_r(&t, &tm);
    /* The process stays in the C locale, so names are English. */
    strftime(ret, 30, "%a, %d %b %Y %H:%M:%S GMT", &tm);
}
