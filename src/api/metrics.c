/* GET /metrics: OpenMetrics 1.0 text. Families come one after the other, never interleaved; the engine's
 * follow ours. */
#include "api/server.h"
#include "base/json.h"
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

struct writer {
    struct buf *b;
    char family[128]; /* the engine's family that is open */
};

static uint64_t load(const _Atomic uint64_t *c)
{
    return atomic_load_explicit(c, memory_order_relaxed);
}

static void family(struct buf *b, const char *name, const char *kind, const char *help)
{
    buf_printf(b, "# TYPE %s %s\n# HELP %s %s\n", name, kind, name, help);
}

static void gauge(struct buf *b, const char *name, const char *help, double value)
{
    family(b, name, "gauge", help);
    buf_printf(b, "%s ", name);
    json_f64(b, value);
    buf_u8(b, '\n');
}

static void counter(struct buf *b, const char *name, const char *help, double value)
{
    family(b, name, "counter", help);
    buf_printf(b, "%s_total ", name);
    json_f64(b, value);
    buf_u8(b, '\n');
}

struct totals {
    uint64_t by_status[ROUTE_COUNT][STATUS_COUNT];
    uint64_t buckets[ROUTE_COUNT][HIST_BUCKETS];
    uint64_t sum_us[ROUTE_COUNT];
    uint64_t messages_in, messages_out, slow_closed, limited, tokens_cached, tokens_verified;
};

static void add_worker(void *arg, void *loop_user)
{
    struct totals *t = arg;
    const struct worker *w = loop_user;
    for (int r = 0; r < ROUTE_COUNT; r++) {
        for (int i = 0; i < STATUS_COUNT; i++)
            t->by_status[r][i] += load(&w->routes[r].by_status[i]);
        for (int i = 0; i < HIST_BUCKETS; i++)
            t->buckets[r][i] += load(&w->routes[r].latency.count[i]);
        t->sum_us[r] += load(&w->routes[r].latency.sum_us);
    }
    t->messages_in += load(&w->messages_in);
    t->messages_out += load(&w->messages_out);
    t->slow_closed += load(&w->slow_closed);
    t->limited += load(&w->limited);
    t->tokens_cached += load(&w->tokens_cached);
    t->tokens_verified += load(&w->tokens_verified);
}

/* Every second power of two from 64 µs to 67 s: bounds that the histogram has exactly. */
static void latency_of(struct buf *b, const struct totals *t, int r)
{
    uint64_t seen = 0, next = 64;
    for (int i = 0; i < HIST_BUCKETS; i++) {
        seen += t->buckets[r][i];
        if (hist_bound_us(i) == next && next <= (1u << 26)) {
            buf_printf(b, "kalamdb_http_request_duration_seconds_bucket{route=\"%s\",le=\"%.6f\"} %llu\n",
                route_label((enum route)r), (double)next / 1e6, (unsigned long long)seen);
            next *= 2;
        }
    }
    buf_printf(b, "kalamdb_http_request_duration_seconds_bucket{route=\"%s\",le=\"+Inf\"} %llu\n",
        route_label((enum route)r), (unsigned long long)seen);
    buf_printf(b, "kalamdb_http_request_duration_seconds_count{route=\"%s\"} %llu\n",
        route_label((enum route)r), (unsigned long long)seen);
    buf_printf(b, "kalamdb_http_request_duration_seconds_sum{route=\"%s\"} %.6f\n",
        route_label((enum route)r), (double)t->sum_us[r] / 1e6);
}

static void http_families(struct buf *b, const struct totals *t)
{
    family(b, "kalamdb_http_requests", "counter", "Requests answered, by route and status.");
    for (int r = 0; r < ROUTE_COUNT; r++) {
        for (int i = 0; i < STATUS_COUNT; i++) {
            if (t->by_status[r][i] > 0)
                buf_printf(b, "kalamdb_http_requests_total{route=\"%s\",status=\"%d\"} %llu\n",
                    route_label((enum route)r), status_of_index(i), (unsigned long long)t->by_status[r][i]);
        }
    }
    family(
        b, "kalamdb_http_request_duration_seconds", "histogram", "Time from a whole request to its answer.");
    for (int r = 0; r < ROUTE_COUNT; r++) {
        bool any = false;
        for (int i = 0; i < HIST_BUCKETS && !any; i++)
            any = t->buckets[r][i] > 0;
        if (any)
            latency_of(b, t, r);
    }
}

static void process_families(struct buf *b, const struct server *s)
{
    struct rusage ru;
    long pages = 0;
    FILE *f = fopen("/proc/self/statm", "re");
    if (f != NULL) {
        if (fscanf(f, "%*s %ld", &pages) != 1)
            pages = 0;
        fclose(f);
    }
    if (pages > 0)
        gauge(b, "process_resident_memory_bytes", "Resident memory.",
            (double)pages * (double)sysconf(_SC_PAGESIZE));
    if (getrusage(RUSAGE_SELF, &ru) == 0)
        counter(b, "process_cpu_seconds", "User and system time.",
            (double)(ru.ru_utime.tv_sec + ru.ru_stime.tv_sec) +
                (double)(ru.ru_utime.tv_usec + ru.ru_stime.tv_usec) / 1e6);
    gauge(b, "process_start_time_seconds", "Start, seconds since 1970.", (double)s->started_s);
}

static void audit_metrics(struct buf *b, const struct server *s)
{
    struct audit_head head;
    if (s->audit == NULL)
        return;
    audit_head(s->audit, &head);
    gauge(b, "kalamdb_audit_head", "Number of the last record of the audit log on disk.", (double)head.n);
    gauge(b, "kalamdb_audit_writable", "1 while the audit log can be written.", audit_writable(s->audit));
    counter(b, "kalamdb_audit_lost", "Records of the audit log that had no room.", (double)head.lost);
}

static void tls_metrics(struct buf *b, const struct server *s, const struct net_stats *n)
{
    uint8_t pin[32];
    int64_t expires_s = 0;
    counter(b, "kalamdb_tls_handshakes", "TLS handshakes done.", (double)n->tls_handshakes_total);
    counter(b, "kalamdb_tls_handshakes_failed", "TLS handshakes refused, broken off or late.",
        (double)n->tls_failed_total);
    counter(b, "kalamdb_tls_truncated", "TLS connections that ended without close_notify.",
        (double)n->tls_truncated_total);
    if (net_tls_certificate(s->net, pin, &expires_s))
        gauge(b, "kalamdb_tls_certificate_expires_seconds", "When the certificate ends, Unix time.",
            (double)expires_s);
}

static void net_families(struct buf *b, const struct server *s, const struct totals *t)
{
    struct net_stats n;
    net_stats(s->net, &n);
    gauge(b, "kalamdb_http_requests_in_flight", "Requests not yet answered.", (double)n.requests_in_flight);
    gauge(b, "kalamdb_connections", "Open connections.", (double)n.connections);
    gauge(b, "kalamdb_websockets", "Open WebSockets.", (double)n.websockets);
    gauge(b, "kalamdb_event_streams", "Open Server-Sent Events streams.", (double)n.chunked);
    counter(b, "kalamdb_connections_accepted", "Connections accepted.", (double)n.accepted_total);
    if (net_tls_port(s->net) != 0)
        tls_metrics(b, s, &n);
    counter(b, "kalamdb_connections_refused",
        "Connections over max_connections or max_connections_per_address.", (double)n.refused_total);
    counter(b, "kalamdb_network_received_bytes", "Bytes read from sockets.", (double)n.bytes_in_total);
    counter(b, "kalamdb_network_sent_bytes", "Bytes written to sockets.", (double)n.bytes_out_total);
    counter(b, "kalamdb_live_messages_received", "Messages from WebSocket clients.", (double)t->messages_in);
    counter(b, "kalamdb_live_messages_sent", "Messages to live clients.", (double)t->messages_out);
    counter(
        b, "kalamdb_rate_limited", "Requests, messages and sockets refused by a limit.", (double)t->limited);
    counter(b, "kalamdb_live_slow_closed", "Streams closed because their reader was too slow.",
        (double)t->slow_closed);
    counter(b, "kalamdb_tokens_verified", "Tokens verified in full.", (double)t->tokens_verified);
    counter(b, "kalamdb_tokens_cached", "Requests whose token was known.", (double)t->tokens_cached);
}

static void engine_sample(void *arg, const struct kalamdb_metric *m)
{
    struct writer *w = arg;
    if (strcmp(w->family, m->name) != 0) {
        snprintf(w->family, sizeof w->family, "%s", m->name);
        family(w->b, m->name, m->kind, m->help);
    }
    bool labels = m->labels != NULL && m->labels[0] != '\0';
    buf_printf(w->b, "%s%s%s%s%s ", m->name, m->suffix, labels ? "{" : "", labels ? m->labels : "",
        labels ? "}" : "");
    json_f64(w->b, m->value);
    buf_u8(w->b, '\n');
}

void serve_metrics(struct call *c)
{
    struct server *s = c->worker->server;
    struct buf *b = &c->req->body;
    struct totals *t = calloc(1, sizeof *t);
    if (t == NULL) {
        answer_error(c, ERR_INTERNAL, "internal error");
        return;
    }
    net_each_loop(s->net, add_worker, t);
    http_families(b, t);
    net_families(b, s, t);
    free(t);
    process_families(b, s);
    audit_metrics(b, s);
    struct writer w = {.b = b};
    kalamdb_metrics(s->db, engine_sample, &w);
    buf_str(b, STR("# EOF\n"));
    answer(c, 200, STR("application/openmetrics-text; version=1.0.0; charset=utf-8"), STR(""));
}
