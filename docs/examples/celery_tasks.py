"""A queue of untrusted jobs on Celery: a supervisor in each worker process. `celery -A celery_tasks worker`."""

import os

from celery import Celery
from celery.signals import worker_process_init, worker_process_shutdown

import pyisolate

app = Celery("celery_tasks", broker=os.environ["BROKER_URL"], backend=os.environ["RESULT_BACKEND"])
app.conf.worker_proc_alive_timeout = 30  # for `start`, on a busy machine
supervisors: list[pyisolate.Supervisor] = []


@worker_process_init.connect  # after the fork: a supervisor belongs to one process
def start(**_):
    supervisors.append(pyisolate.Supervisor(pool_size=2).start())


@worker_process_shutdown.connect
def stop(**_):
    while supervisors:
        supervisors.pop().close()


@app.task(acks_late=True)  # a job whose worker was killed runs again
def run(source: str) -> dict[str, str]:
    with supervisors[0].spawn("job", "compute") as sandbox:
        try:
            result = sandbox.exec(source, timeout=5)
        except pyisolate.PolicyError as error:
            return {"refused": error.denial_event.target, "code": str(error.denial_event.code)}
        except pyisolate.LimitExceeded as error:
            return {"limit": error.limit}
        except pyisolate.GuestError as error:
            return {"raised": error.type_name, "message": error.message}
        except pyisolate.SandboxDied as error:
            return {"ended": type(error).__name__}
    return {"stdout": result.stdout, "value": repr(result.value)}
