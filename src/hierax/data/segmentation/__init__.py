"""Images whose pixels have classes: folders of pairs, lists, tables and COCO files, and the traps of masks."""
