{ toolkit, locks }: { }
