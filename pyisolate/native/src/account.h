/* What other files call of account.c. */
#ifndef PYISOLATE_ACCOUNT_H
#define PYISOLATE_ACCOUNT_H

#include <stdint.h>

#include "account.types.h"
#include "shared.h"

SHARED struct account *account_open(void);
SHARED struct account *account_hold(struct account *a);
SHARED void account_drop(struct account *a);
SHARED void account_spend(struct account *a, uint64_t spent_ns, uint64_t now_ns);
SHARED void account_served(const struct account *a, uint64_t now_ns);
SHARED uint64_t account_wait(const struct account *a, uint64_t now_ns);
SHARED void account_held(struct account *a, uint64_t held_ns);

#endif
