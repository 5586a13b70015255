"""Pictures and videos: contact sheets, the colours of flow, rendered scenes."""
