--- Pictures in files, for the examples: PNG by libpng (1.6, through FFI) where that is there; else
-- PGM and PPM, which most viewers open.

local ffi = require "ffi"

local picture = {}

ffi.cdef [[
typedef struct picture_png { /* png_image of png.h */
  void *opaque;
  uint32_t version, width, height, format, flags, colormap_entries, warning_or_error;
  char message[64];
} picture_png;
int png_image_write_to_file(picture_png *image, const char *path, int convert, const void *pixels, int32_t row, const void *colormap);
int png_image_begin_read_from_file(picture_png *image, const char *path);
int png_image_finish_read(picture_png *image, const void *background, void *pixels, int32_t row, void *colormap);
]]

local is_there, png = pcall(ffi.load, "libpng16.so.16")

local PNG_IMAGE_VERSION = 1
local FORMATS = { [1] = 0, [3] = 2 } -- by channels: PNG_FORMAT_GRAY, PNG_FORMAT_RGB

--- Writes rows of pixels, one byte per channel: 1 for grey, 3 for red, green and blue.
---@param path string
---@param pixels tidepool.Array  uint8
---@return string path  another one where there is no libpng: .pgm or .ppm
function picture.write(path, width, height, channels, pixels)
  if is_there then
    local image = ffi.new("picture_png", { version = PNG_IMAGE_VERSION, width = width, height = height, format = FORMATS[channels] })
    if png.png_image_write_to_file(image, path, 0, pixels.data, 0, nil) == 0 then error(path .. ": " .. ffi.string(image.message)) end
    return path
  end
  local suffix, magic = channels == 1 and ".pgm" or ".ppm", channels == 1 and "P5" or "P6"
  path = path:gsub("%.png$", suffix)
  local file = assert(io.open(path, "wb"))
  file:write(("%s %d %d 255\n"):format(magic, width, height), ffi.string(pixels.data, width * height * channels))
  file:close()
  return path
end

--- Reads a PNG file in grey.
---@return tidepool.Array pixels  uint8
---@return integer width
---@return integer height
function picture.read(path)
  if not is_there then error("libpng16.so.16 is not there: it reads pictures (Debian: apt install libpng16-16)") end
  local image = ffi.new("picture_png", { version = PNG_IMAGE_VERSION })
  if png.png_image_begin_read_from_file(image, path) == 0 then error(path .. ": " .. ffi.string(image.message)) end
  image.format = FORMATS[1]
  local pixels = require "tidepool".array("uint8", image.width * image.height)
  local background = ffi.new("uint8_t[3]", 255, 255, 255) -- behind what is transparent
  if png.png_image_finish_read(image, background, pixels.data, 0, nil) == 0 then error(path .. ": " .. ffi.string(image.message)) end
  return pixels, image.width, image.height
end

return picture
