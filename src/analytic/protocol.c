#include "analytic/protocol.h"

#define FILES_PER_INPUT_MAX PROTO_FDS_MAX

enum { INPUT_TOMBSTONES = 1, INPUT_ROWS = 2, INPUT_AS_STORED = 4 };

enum err proto_header(const uint8_t bytes[PROTO_HEADER_BYTES], struct frame_header *ret)
{
    uint32_t n = get_be32(bytes);
    if (bytes[4] < FRAME_REQUEST || bytes[4] > FRAME_ERROR)
        return ERR_CORRUPT;
    if (n > (bytes[4] == FRAME_REQUEST ? PROTO_REQUEST_MAX : PROTO_FRAME_MAX))
        return ERR_CORRUPT;
    *ret = (struct frame_header){n, (enum frame_type)bytes[4]};
    return ERR_OK;
}

size_t proto_begin(struct buf *b, enum frame_type type)
{
    size_t at = b->len;
    buf_be32(b, 0);
    buf_u8(b, (uint8_t)type);
    return at;
}

void proto_end(struct buf *b, size_t at)
{
    if (!b->failed)
        put_be32(b->ptr + at, (uint32_t)(b->len - at - PROTO_HEADER_BYTES));
}

int proto_request_fds(const struct analytic_request *rq, int fds[PROTO_FDS_MAX])
{
    int n = 0;
    for (int i = 0; i < rq->ninputs; i++) {
        const struct analytic_input *in = &rq->inputs[i];
        if (in->nfiles < 0 || in->nfiles > PROTO_FDS_MAX || n + in->nfiles + 2 > PROTO_FDS_MAX)
            return -1;
        if (in->rows_fd >= 0)
            fds[n++] = in->rows_fd;
        for (int f = 0; f < in->nfiles; f++)
            fds[n++] = in->file_fds[f];
    }
    if (rq->mode == ANALYTIC_PARQUET)
        fds[n++] = rq->output_fd;
    return n;
}

static void put_input(struct buf *b, const struct analytic_input *in)
{
    const struct schema *s = in->schema;
    buf_u8(b, (uint8_t)((in->with_tombstones ? INPUT_TOMBSTONES : 0) | (in->rows_fd >= 0 ? INPUT_ROWS : 0) |
                        (in->as_stored ? INPUT_AS_STORED : 0)));
    buf_varint(b, in->rows_fd >= 0 ? in->rows_bytes : 0);
    buf_varint(b, (uint64_t)s->ncolumns);
    buf_varint(b, (uint64_t)s->key_column);
    for (int c = 0; c < s->ncolumns; c++) {
        buf_lstr(b, s->columns[c].name);
        buf_u8(b, (uint8_t)s->columns[c].type);
        buf_u8(b, (uint8_t)s->columns[c].flags);
    }
    buf_varint(b, (uint64_t)in->nfiles);
    buf_varint(b, in->nexclude);
    for (size_t i = 0; i < in->nexclude; i++)
        buf_be64(b, (uint64_t)in->exclude[i]);
}

void proto_put_request(struct buf *b, const struct analytic_request *rq)
{
    size_t at = proto_begin(b, FRAME_REQUEST);
    buf_u8(b, PROTO_VERSION);
    buf_u8(b, (uint8_t)rq->mode);
    buf_lstr(b, rq->user_id);
    buf_lstr(b, rq->sql);
    buf_varint(b, rq->rows_max);
    buf_varint(b, (uint64_t)(rq->timeout_ms > 0 ? rq->timeout_ms : 0));
    buf_varint(b, (uint64_t)rq->ninputs);
    for (int i = 0; i < rq->ninputs; i++)
        put_input(b, &rq->inputs[i]);
    proto_end(b, at);
}

static enum err get_schema(struct arena *arena, struct reader *r, const struct schema **ret)
{
    uint64_t ncolumns = read_varint(r), key = read_varint(r);
    if (r->bad || ncolumns == 0 || ncolumns > SCHEMA_COLUMNS_MAX || key >= ncolumns)
        return ERR_CORRUPT;
    struct schema *s = arena_alloc(arena, sizeof *s);
    struct column *columns = arena_array(arena, (size_t)ncolumns, sizeof *columns);
    if (s == NULL || columns == NULL)
        return ERR_NO_MEMORY;
    for (uint64_t c = 0; c < ncolumns; c++) {
        columns[c].name = read_lstr(r);
        uint8_t type = read_u8(r);
        columns[c].type = (enum value_type)type;
        columns[c].flags = read_u8(r);
        if (r->bad || columns[c].name.len == 0 || !utf8_valid(columns[c].name) || type == VALUE_NULL ||
            type > VALUE_BLOB)
            return ERR_CORRUPT;
    }
    *s = (struct schema){.key_column = (int)key, .ncolumns = (int)ncolumns, .columns = columns};
    *ret = s;
    return ERR_OK;
}

static enum err get_input(struct arena *arena, struct reader *r, int nfds, int *fd, struct analytic_input *in)
{
    uint8_t flags = read_u8(r);
    in->with_tombstones = (flags & INPUT_TOMBSTONES) != 0;
    in->as_stored = (flags & INPUT_AS_STORED) != 0;
    in->rows_bytes = read_varint(r);
    enum err e = get_schema(arena, r, &in->schema);
    if (e != ERR_OK)
        return e;
    uint64_t nfiles = read_varint(r), nexclude = read_varint(r);
    if (r->bad || (flags & ~(INPUT_TOMBSTONES | INPUT_ROWS | INPUT_AS_STORED)) != 0 ||
        nfiles > FILES_PER_INPUT_MAX || nexclude > reader_left(r) / 8)
        return ERR_CORRUPT;
    in->rows_fd = (flags & INPUT_ROWS) != 0 ? (*fd)++ : -1;
    int *files = arena_array(arena, (size_t)nfiles, sizeof *files);
    int64_t *exclude = arena_array(arena, (size_t)nexclude, sizeof *exclude);
    if (files == NULL || exclude == NULL)
        return ERR_NO_MEMORY;
    for (uint64_t i = 0; i < nfiles; i++)
        files[i] = (*fd)++;
    for (uint64_t i = 0; i < nexclude; i++)
        exclude[i] = (int64_t)read_be64(r);
    in->file_fds = files;
    in->nfiles = (int)nfiles;
    in->exclude = exclude;
    in->nexclude = (size_t)nexclude;
    return r->bad || *fd > nfds ? ERR_CORRUPT : ERR_OK;
}

enum err proto_get_request(struct arena *arena, struct str body, int nfds, struct analytic_request *ret)
{
    struct reader r = reader_of(body);
    struct analytic_request rq = {.output_fd = -1};
    uint8_t version = read_u8(&r), mode = read_u8(&r);
    rq.user_id = read_lstr(&r);
    rq.sql = read_lstr(&r);
    rq.rows_max = (size_t)read_varint(&r);
    uint64_t timeout_ms = read_varint(&r), ninputs = read_varint(&r);
    if (r.bad || version != PROTO_VERSION || mode > ANALYTIC_PARQUET || ninputs > PROTO_INPUTS_MAX ||
        timeout_ms > INT32_MAX || memchr(rq.sql.ptr, '\0', rq.sql.len) != NULL)
        return ERR_CORRUPT;
    rq.mode = (enum analytic_mode)mode;
    rq.timeout_ms = (int)timeout_ms;
    rq.ninputs = (int)ninputs;
    struct analytic_input *inputs = arena_array(arena, (size_t)ninputs, sizeof *inputs);
    if (inputs == NULL)
        return ERR_NO_MEMORY;
    int fd = 0;
    for (int i = 0; i < rq.ninputs; i++) {
        enum err e = get_input(arena, &r, nfds, &fd, &inputs[i]);
        if (e != ERR_OK)
            return e;
    }
    if (rq.mode == ANALYTIC_PARQUET)
        rq.output_fd = fd++;
    if (r.bad || reader_left(&r) != 0 || fd != nfds)
        return ERR_CORRUPT;
    rq.inputs = inputs;
    *ret = rq;
    return ERR_OK;
}

void proto_put_columns(struct buf *b, int n, const struct str *names, const enum value_type *types)
{
    size_t at = proto_begin(b, FRAME_COLUMNS);
    buf_varint(b, (uint64_t)n);
    for (int i = 0; i < n; i++) {
        buf_u8(b, (uint8_t)types[i]);
        buf_lstr(b, names[i]);
    }
    proto_end(b, at);
}

enum err proto_get_columns(struct str body, struct rowset *ret)
{
    struct reader r = reader_of(body);
    uint64_t n = read_varint(&r);
    if (r.bad || n == 0 || n > PROTO_COLUMNS_MAX || n > reader_left(&r) || ret->ncolumns != 0)
        return ERR_CORRUPT;
    struct str *names = arena_array(&ret->arena, (size_t)n, sizeof *names);
    enum value_type *types = arena_array(&ret->arena, (size_t)n, sizeof *types);
    if (names == NULL || types == NULL)
        return ERR_NO_MEMORY;
    for (uint64_t i = 0; i < n; i++) {
        uint8_t type = read_u8(&r);
        types[i] = (enum value_type)type;
        names[i] = read_lstr(&r);
        if (r.bad || type == VALUE_NULL || type > VALUE_LIST || !utf8_valid(names[i]))
            return ERR_CORRUPT;
    }
    if (reader_left(&r) != 0)
        return ERR_CORRUPT;
    return rowset_set_columns(ret, (int)n, names, types);
}

void proto_put_value(struct buf *b, struct value v)
{
    buf_u8(b, (uint8_t)v.type);
    if (value_is_bytes(v.type)) {
        buf_lstr(b, v.s);
    } else if (v.type == VALUE_DOUBLE) {
        uint64_t bits;
        memcpy(&bits, &v.d, sizeof bits);
        buf_be64(b, bits);
    } else if (v.type != VALUE_NULL) {
        buf_zigzag(b, v.i);
    }
}

/* Text of a type whose readers take it for UTF-8 is checked here, once, for all of them. */
static bool get_value(struct reader *r, enum value_type column, struct value *ret)
{
    uint8_t type = read_u8(r);
    struct value v = {.type = (enum value_type)type};
    if (r->bad || (type != VALUE_NULL && type != (uint8_t)column))
        return false;
    if (value_is_bytes(v.type)) {
        v.s = read_lstr(r);
        if (!r->bad && v.type != VALUE_BLOB && !utf8_valid(v.s))
            return false;
    } else if (v.type == VALUE_DOUBLE) {
        uint64_t bits = read_be64(r);
        memcpy(&v.d, &bits, sizeof v.d);
    } else if (v.type != VALUE_NULL) {
        v.i = read_zigzag(r);
        if (v.type == VALUE_BOOL && v.i != 0 && v.i != 1)
            return false;
    }
    *ret = v;
    return !r->bad;
}

enum err proto_get_rows(struct str body, struct rowset *rs)
{
    struct reader r = reader_of(body);
    if (rs->ncolumns <= 0)
        return ERR_CORRUPT;
    struct value few[64], *row = few;
    if (rs->ncolumns > 64) {
        row = arena_array(&rs->arena, (size_t)rs->ncolumns, sizeof *row);
        if (row == NULL)
            return ERR_TOO_LARGE;
    }
    while (reader_left(&r) > 0) {
        for (int c = 0; c < rs->ncolumns; c++)
            if (!get_value(&r, rs->types[c], &row[c]))
                return ERR_CORRUPT;
        enum err e = rowset_add_borrowed(rs, row);
        if (e != ERR_OK)
            return e;
    }
    return ERR_OK;
}

void proto_put_done(struct buf *b, struct proto_done done)
{
    size_t at = proto_begin(b, FRAME_DONE);
    buf_u8(b, done.truncated);
    buf_u8(b, done.retire);
    buf_varint(b, done.rows);
    proto_end(b, at);
}

enum err proto_get_done(struct str body, struct proto_done *ret)
{
    struct reader r = reader_of(body);
    uint8_t truncated = read_u8(&r), retire = read_u8(&r);
    uint64_t rows = read_varint(&r);
    if (r.bad || truncated > 1 || retire > 1 || reader_left(&r) != 0)
        return ERR_CORRUPT;
    *ret = (struct proto_done){rows, truncated != 0, retire != 0};
    return ERR_OK;
}

void proto_put_error(struct buf *b, const struct errctx *ec, bool retire)
{
    size_t at = proto_begin(b, FRAME_ERROR);
    buf_u8(b, (uint8_t)ec->code);
    buf_u8(b, retire);
    buf_lstr(b, str_c(ec->message));
    buf_lstr(b, str_c(ec->detail));
    buf_lstr(b, str_c(ec->hint));
    buf_lstr(b, str_c(ec->internal));
    proto_end(b, at);
}

static bool get_field(struct reader *r, char *field, size_t size)
{
    struct str s = read_lstr(r);
    if (r->bad || s.len >= size || memchr(s.len > 0 ? s.ptr : "", '\0', s.len) != NULL || !utf8_valid(s))
        return false;
    if (s.len > 0)
        memcpy(field, s.ptr, s.len);
    field[s.len] = '\0';
    return true;
}

enum err proto_get_error(struct str body, struct errctx *ret, bool *ret_retire)
{
    struct reader r = reader_of(body);
    uint8_t code = read_u8(&r), retire = read_u8(&r);
    struct errctx ec;
    errctx_clear(&ec);
    if (r.bad || code == ERR_OK || code > ERR_RETRY || retire > 1 ||
        !get_field(&r, ec.message, sizeof ec.message) || !get_field(&r, ec.detail, sizeof ec.detail) ||
        !get_field(&r, ec.hint, sizeof ec.hint) || !get_field(&r, ec.internal, sizeof ec.internal) ||
        reader_left(&r) != 0)
        return ERR_CORRUPT;
    ec.code = (enum err)code;
    *ret = ec;
    *ret_retire = retire != 0;
    return ERR_OK;
}

void control_put(uint8_t bytes[CONTROL_BYTES], struct control c)
{
    bytes[0] = PROTO_VERSION;
    bytes[1] = (uint8_t)c.type;
    put_be32(bytes + 2, c.id);
    put_be32(bytes + 6, c.value);
}

enum err control_get(struct str bytes, struct control *ret)
{
    struct reader r = reader_of(bytes);
    uint8_t version = read_u8(&r), type = read_u8(&r);
    uint32_t id = read_be32(&r), value = read_be32(&r);
    if (r.bad || version != PROTO_VERSION || type < CONTROL_READY || type > CONTROL_EXPELLED)
        return ERR_CORRUPT;
    *ret = (struct control){(enum control_type)type, id, value};
    return ERR_OK;
}
