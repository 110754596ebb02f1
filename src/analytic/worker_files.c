/* Where a request's descriptors go.
 *
 * DuckDB keeps the footers of Parquet files it has read, by path, and our paths are descriptor numbers. So a
 * number is never given to a second file: it goes to the next one that was never used, and a worker whose
 * numbers run out ends. The other way round a file that comes again (most statements of a user read the files
 * of the one before) gets its old number and its footer is not read again. "The same" is the inode, which
 * cannot have been reused while our descriptor holds it, with size and time in case somebody wrote to it
 * after all. */
#include "analytic/worker.h"
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

static bool same_file(const struct worker_slot *s, const struct stat *st)
{
    return s->open && s->dev == st->st_dev && s->ino == st->st_ino && s->size == (uint64_t)st->st_size &&
           s->mtime_s == st->st_mtim.tv_sec && s->mtime_ns == st->st_mtim.tv_nsec;
}

/* The number of the file that fd is open on; takes fd. -1 when there is none to give. */
static int place(struct worker *w, int fd, bool output)
{
    struct stat st;
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
        close(fd);
        return -1;
    }
    for (int i = 0; i < w->slots_used && !output; i++)
        if (same_file(&w->slots[i], &st)) {
            close(fd);
            w->slots[i].used = w->request_no;
            return WORKER_FD_BASE + i;
        }
    int at = -1;
    if (w->slots_used < WORKER_SLOTS) {
        int i = w->slots_used++;
        at = dup3(fd, WORKER_FD_BASE + i, O_CLOEXEC);
        w->slots[i] = (struct worker_slot){.open = at >= 0,
            .dev = st.st_dev,
            .ino = st.st_ino,
            .size = (uint64_t)st.st_size,
            .mtime_s = st.st_mtim.tv_sec,
            .mtime_ns = st.st_mtim.tv_nsec,
            .used = w->request_no};
    }
    close(fd);
    return at;
}

bool worker_files_place(struct worker *w, struct analytic_request *rq, const int *fds, int nfds)
{
    int at = 0;
    bool good = true;
    w->request_no++;
    for (int i = 0; i < rq->ninputs; i++) {
        /* The decoder made these arrays for us; the shared type is const for the server's callers. */
        struct analytic_input *in = (struct analytic_input *)(uintptr_t)&rq->inputs[i];
        int *files = (int *)(uintptr_t)in->file_fds;
        if (in->rows_fd >= 0)
            in->rows_fd = fds[at++];
        for (int f = 0; f < in->nfiles; f++) {
            files[f] = place(w, fds[at++], false);
            good = good && files[f] >= 0;
        }
    }
    if (rq->mode == ANALYTIC_PARQUET) {
        rq->output_fd = place(w, fds[at++], true);
        good = good && rq->output_fd >= 0;
    }
    return good && at == nfds;
}

void worker_files_done(struct worker *w, const struct analytic_request *rq)
{
    for (int i = 0; i < rq->ninputs; i++)
        if (rq->inputs[i].rows_fd >= 0)
            close(rq->inputs[i].rows_fd);
    for (int i = 0; i < w->slots_used; i++) {
        struct worker_slot *s = &w->slots[i];
        bool written = rq->mode == ANALYTIC_PARQUET && rq->output_fd == WORKER_FD_BASE + i;
        if (s->open && (written || s->used != w->request_no)) {
            close(WORKER_FD_BASE + i);
            s->open = false;
        }
    }
}

bool worker_files_exhausted(const struct worker *w)
{
    return w->slots_used > WORKER_SLOTS - PROTO_FDS_MAX;
}
