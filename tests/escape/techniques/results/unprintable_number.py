"""Give the host a number of more digits than its interpreter prints."""

from tests.escape.technique import Alone, Technique, not_run


def attack(world):
    """Leave all to the host, which evaluates and prints."""


def outside_read(sandbox, _targets):
    from pyisolate.integrations.model_text import outcome_text

    result = sandbox.exec("10**5000", timeout=5)
    return str(result) + outcome_text(result, (), ended=False)


TECHNIQUE = Technique(
    source="CVE-2020-10735, whose mend raises ValueError from 4300 digits on",
    reader=outside_read,
    no_event="a number is a value as any",
    stops=("supervisor",),
    control=Alone("what is measured is what the host meets"),
    thread=not_run("a value is the guest's own object there"),
)
