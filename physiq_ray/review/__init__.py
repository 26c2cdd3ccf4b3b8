"""Label photos on a page of this machine, one by one, and merge the decisions into the label file.

Each decision is in a journal on the disk before the next photo is shown. Merging joins the journals of
several people and the feedback records of the service; contradictions are named, nothing is overwritten.

catalogue   the listed photos, which of them a name means, and what the labels say about each
candidates  which photos are shown, with which suggestion, in which order
journal     one line for each decision and each undo
merge       journals and feedback records → the label file
photos      a photo as a JPEG at the size of a screen, without EXIF data
session     what was decided, what comes next, and the progress
server      the HTTP requests of the page, and which are refused
run         the page from its start to its end
page/       the page itself
"""
