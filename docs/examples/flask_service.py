"""A service on Flask: POST /run with Python, an answer for every way to end. `flask --app flask_service run`."""

from flask import Flask, request

import pyisolate

app = Flask(__name__)


@app.post("/run")
def run():
    with pyisolate.spawn("request", "compute") as sandbox:
        try:
            result = sandbox.exec(request.get_data(as_text=True), timeout=1)
        except pyisolate.PolicyError as error:
            return {"refused": error.denial_event.target, "code": str(error.denial_event.code)}, 403
        except pyisolate.LimitExceeded as error:
            return {"limit": error.limit}, 422
        except pyisolate.GuestError as error:
            return {"raised": error.type_name, "message": error.message}, 400
    return {"stdout": result.stdout, "value": repr(result.value)}
