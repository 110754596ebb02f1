/* Answers out of files, in pieces of at most CHUNK_BYTES: the page cache is read here and now, what the disk
 * has to bring is read by a thread of the pool, so that no other connection waits for it. The next piece is
 * read when less than LOW_BYTES wait for the socket; a client that does not read costs two pieces at most. A
 * file that is read by its `read` is always read there. */
#include "net/conn.h"
#include <errno.h>
#include <stdlib.h>
#include <sys/uio.h>
#include <unistd.h>

#define CHUNK_BYTES 65536
#define LOW_BYTES 32768
#define BURST 8 /* pieces in a row from the page cache; then the others' turn */

struct file_answer {
    struct net_job job;
    struct net_loop *loop;
    struct net_conn *conn; /* while a read is under way; NULL: nobody waits for it */
    struct net_file file;
    uint64_t at, left;
    char *chunk;
    ssize_t got;
    int burst;
    bool reading;
};

struct file_answer *file_answer_new(
    struct net_loop *loop, struct net_file file, uint64_t offset, uint64_t length)
{
    struct file_answer *f = calloc(1, sizeof *f);
    if (f == NULL)
        return NULL;
    f->loop = loop;
    f->file = file;
    f->at = offset;
    f->left = length;
    return f;
}

void file_answer_free(struct file_answer *f)
{
    if (f == NULL)
        return;
    f->conn = NULL;
    if (f->reading) /* its `done` comes back here */
        return;
    f->file.close(f->file.arg);
    free(f->chunk);
    free(f);
}

static struct file_answer *file_of(struct net_job *job)
{
    return (struct file_answer *)((char *)job - offsetof(struct file_answer, job));
}

/* To the next multiple of CHUNK_BYTES: what is read in blocks of that many is not read twice. */
static size_t wanted(const struct file_answer *f)
{
    size_t n = CHUNK_BYTES - (size_t)(f->at % CHUNK_BYTES);
    return f->left < n ? (size_t)f->left : n;
}

static void read_chunk(struct net_job *job)
{
    struct file_answer *f = file_of(job);
    if (f->file.fd < 0) {
        f->got = (ssize_t)f->file.read(f->file.arg, f->at, f->chunk, wanted(f));
        return;
    }
    do {
        f->got = pread(f->file.fd, f->chunk, wanted(f), (off_t)f->at);
    } while (f->got < 0 && errno == EINTR);
}

/* Queues what was read. False: the file ends early or cannot be read, which only a cut connection can say
 * now. */
static bool take_chunk(struct net_conn *c, struct file_answer *f)
{
    if (f->got <= 0) {
        conn_close(c);
        return false;
    }
    f->at += (uint64_t)f->got;
    f->left -= (uint64_t)f->got;
    /* A message of its own each: a write under way must not grow. */
    out_borrow(&c->out, str_n(f->chunk, (size_t)f->got), false, free, f->chunk);
    f->chunk = NULL;
    conn_dirty(c);
    return true;
}

static void chunk_read(struct net_job *job)
{
    struct file_answer *f = file_of(job);
    struct net_conn *c = f->conn;
    f->reading = false;
    f->burst = 0;
    if (c == NULL)
        file_answer_free(f);
    else if (take_chunk(c, f))
        http_answers_advance(c);
}

static bool read_elsewhere(struct net_conn *c, struct file_answer *f)
{
    f->conn = c;
    f->job = (struct net_job){.work = read_chunk, .done = chunk_read};
    f->reading = true;
    if (net_offload(f->loop, &f->job))
        return true;
    f->reading = false;
    return false;
}

/* Out of the page cache, as much as is there. False: not there, or it is the others' turn. */
static bool read_here(struct file_answer *f)
{
    struct iovec v = {.iov_base = f->chunk, .iov_len = wanted(f)};
    if (f->file.fd < 0 || f->burst++ >= BURST)
        return false;
    f->got = preadv2(f->file.fd, &v, 1, (off_t)f->at, RWF_NOWAIT);
    return f->got >= 0;
}

bool file_advance(struct net_conn *c, struct file_answer *f)
{
    while (!f->reading && f->left > 0 && conn_pending(c) < LOW_BYTES) {
        f->chunk = malloc(CHUNK_BYTES);
        if (f->chunk == NULL) {
            conn_close(c);
            return false;
        }
        if (read_here(f)) {
            if (!take_chunk(c, f))
                return false;
        } else if (!read_elsewhere(c, f)) {
            conn_close(c);
            return false;
        }
    }
    return f->left == 0;
}
