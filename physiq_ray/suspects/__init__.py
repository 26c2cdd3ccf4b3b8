"""Rank labelled photos by how little a model believes their labels, so that a person looks at the first ones.

A model believes the labels that it was trained on, wrong ones too. So each photo is predicted by a model that
was not trained on it: by one of K models, each trained on the other folds, or by one model and only the
photos that its training did not use.

predicted  the photos with their probabilities, from one model or from K folds; it imports Ray
rank       probabilities and labels → the order of the photos, and which labels are likely wrong
found      the ranked photos, and how many are likely wrong, by bucket and by pair of poses
report     suspects.jsonl and the contact sheet
text       the result as lines for a reader
"""
