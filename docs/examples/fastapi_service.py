"""The same on FastAPI, whose event loop goes on while guests run. `fastapi run fastapi_service.py`."""

import asyncio

from fastapi import FastAPI
from fastapi.responses import JSONResponse
from pydantic import BaseModel

import pyisolate

app = FastAPI()
at_a_time = asyncio.Semaphore(4)


class Job(BaseModel):
    source: str


@app.post("/run")
async def run(job: Job):
    async with at_a_time, await asyncio.to_thread(pyisolate.spawn, "request", "compute") as sandbox:
        try:
            result = await sandbox.aexec(job.source, timeout=1)
        except pyisolate.PolicyError as error:
            event = error.denial_event
            return JSONResponse({"refused": event.target, "code": str(event.code)}, 403)
        except pyisolate.LimitExceeded as error:
            return JSONResponse({"limit": error.limit}, 422)
        except pyisolate.GuestError as error:
            return JSONResponse({"raised": error.type_name, "message": error.message}, 400)
    return {"stdout": result.stdout, "value": repr(result.value)}
