"""Predictions of pods, collected into the prediction log.

payloads  inputs and outputs of a request and its answer, by protocol; pure
events    one CloudEvent of Seldon's request logger, understood or refused; pure
pairing   halves into rows: duplicates, order, halves that never come; pure
tables    rows as Arrow tables with the log's columns; pure
inbox     events on the disk before they are acknowledged
places    where the log lies: a folder or an object store
keeper    all of it as one thing that may be killed at any line
totals    what was counted, over the life of a spool; pure
marks     how far the log is complete here
homes     which of several collectors is at home for a prediction; pure
outbox    halves on their way there; pure
plans     what a flush does, settled before it does it; pure
guests    a batch of halves as one collector tells another; pure
handing   brings them there
lost      closes the watermarks of a collector that is lost
admission who may send what, how much at once
check     whether a collector answers, and only to those it should
server, tls, metrics  HTTP in front of it
writers   model servers that send their own log, and those that are gone
sending   a model server's own log, sent to a collector
bringing  what an object store has of the log, brought to where gates and monitoring read it

Nothing here is imported by what does not serve or ask for it: ``windtunnel collector`` runs the server.
"""
