/* Who gets the job threads: one owner's jobs never take the last worker. */
#include "../test.h"
#include "fixture.h"
#include <semaphore.h>

struct gated {
    struct analytic_job job;
    sem_t begun, go, ended;
};

static void run_gated(struct analytic_job *job)
{
    struct gated *g = (struct gated *)(void *)job;
    sem_post(&g->begun);
    sem_wait(&g->go);
    sem_post(&g->ended);
}

static void gated_init(struct gated *g, uint64_t owner)
{
    g->job = (struct analytic_job){.run = run_gated, .owner = owner};
    sem_init(&g->begun, 0, 0);
    sem_init(&g->go, 0, 0);
    sem_init(&g->ended, 0, 0);
}

static int value(sem_t *s)
{
    int v = -1;
    sem_getvalue(s, &v);
    return v;
}

static void another_owner_is_never_behind_a_crowd(void **state)
{
    (void)state;
    struct analytic_config cfg = {.workers_max = 3, .threads = 5};
    struct analytic *a = fixture_start(&cfg);
    struct gated alice[6], bob;
    for (int i = 0; i < 6; i++) {
        gated_init(&alice[i], analytic_owner(STR("alice")));
        analytic_submit(a, &alice[i].job);
    }
    gated_init(&bob, analytic_owner(STR("bob")));
    analytic_submit(a, &bob.job);
    /* Bob's job begins while alice's first two are held: it did not wait for any of the six. */
    sem_wait(&alice[0].begun);
    sem_wait(&alice[1].begun);
    sem_wait(&bob.begun);
    for (int i = 2; i < 6; i++)
        assert_int_equal(value(&alice[i].begun), 0);
    sem_post(&bob.go);
    sem_wait(&bob.ended);
    /* As alice's end, her next begin, in order. */
    for (int i = 0; i < 6; i++) {
        if (i >= 2)
            sem_wait(&alice[i].begun);
        if (i + 2 < 6)
            assert_int_equal(value(&alice[i + 2].begun), 0);
        sem_post(&alice[i].go);
        sem_wait(&alice[i].ended);
    }
    analytic_close(a);
}

static void what_waits_at_the_close_still_runs(void **state)
{
    (void)state;
    struct analytic_config cfg = {.workers_max = 1, .threads = 2};
    struct analytic *a = fixture_start(&cfg);
    struct gated jobs[4];
    for (int i = 0; i < 4; i++) {
        gated_init(&jobs[i], analytic_owner(STR("alice")));
        sem_post(&jobs[i].go);
        analytic_submit(a, &jobs[i].job);
    }
    analytic_close(a);
    for (int i = 0; i < 4; i++)
        assert_int_equal(value(&jobs[i].ended), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(another_owner_is_never_behind_a_crowd),
        cmocka_unit_test(what_waits_at_the_close_still_runs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
