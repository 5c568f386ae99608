"""`pyisolate demo`: a real job, real attacks, and proof from outside of what became of each.

scene.py    what there is to steal and to break        attacks.py  the attacks, as guest code
trial.py    one attack, tried and judged               command.py  the command and its tables
"""
