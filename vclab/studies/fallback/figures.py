"""placeholder"""
def figures(dataset, out):
    return []
