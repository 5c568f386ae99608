"""The truth of events, measured: every refused operation leaves exactly one event, and each field of it is right.

world       what the operations are about: files, sockets and programs, and the policy that grants some of them
operations  the table: one operation, done by the interpreter and by native code, and what its event must say
measure     runs each operation in a sandbox of its own and judges what was recorded
places      directories, links and addresses with grants and denials beside each other, and the policies of scenarios
scenarios   runs calls after one another, programs and libraries, and judges all events that each leaves together
sequences, programs, libraries    their tables
__main__    `python -m tests.truth`: the rates, and every miss
"""
